/* The blind test: its rules, its storage, and its part of the page. */
(function () {
  'use strict';
  const earvae = (window.earvae = window.earvae || {});
  const FORMAT = 'earvae-abx-1';

  /** True or false with equal chance. */
  function coin() {
    return crypto.getRandomValues(new Uint8Array(1))[0] < 128;
  }

  /** A test of `planned` trials; `a` and `b` are names, `flip` draws X. */
  earvae.AbxTest = class {
    constructor(a, b, planned, flip) {
      this.a = a;
      this.b = b;
      this.planned = planned;
      this.flip = flip || coin;
      this.trials = [];
      this.started = new Date().toISOString();
      this.draw();
    }

    draw() {
      this.x = this.flip() ? 'A' : 'B';
      this.since = performance.now();
    }

    get done() {
      return this.trials.length >= this.planned;
    }

    get correct() {
      return this.trials.filter((trial) => trial.correct).length;
    }

    get p() {
      return earvae.binomialP(this.correct, this.trials.length);
    }

    /** Say that X is "A" or "B". */
    answer(choice) {
      const seconds = Math.round(performance.now() - this.since) / 1000;
      this.trials.push({ x: this.x, answer: choice, correct: choice === this.x, seconds: seconds });
      if (!this.done) this.draw();
    }

    record(more) {
      return Object.assign({
        format: FORMAT, a: this.a, b: this.b, planned: this.planned, completed: this.done,
        correct: this.correct, count: this.trials.length, p_value: this.p,
        started: this.started, finished: new Date().toISOString(), trials: this.trials,
      }, more);
    }
  };

  function by(id) {
    return document.getElementById(id);
  }

  function show(id, shown) {
    by(id).hidden = !shown;
  }

  /** The panel. `versions` are those of the page, `matched()` says if they are equally loud. */
  earvae.AbxPanel = class {
    constructor(player, data, matched) {
      this.player = player;
      this.data = data;
      this.matched = matched;
      this.store = new earvae.Records('abx', data.report);
      this.test = null;
      this.listen = 'A';
      by('abx-open').addEventListener('click', () => (this.open ? this.close() : this.setUp()));
      by('abx-close').addEventListener('click', () => this.close());
      by('abx-done').addEventListener('click', () => this.close());
      by('abx-again').addEventListener('click', () => this.setUp());
      by('abx-stop').addEventListener('click', () => this.finish());
      by('abx-save').addEventListener('click', () => earvae.save('abx.json', this.record));
      by('past-save').addEventListener('click', () => this.saveAll());
      by('past-forget').addEventListener('click', () => this.forget());
      by('abx-setup').addEventListener('submit', (event) => {
        event.preventDefault();
        this.start();
      });
      for (const button of document.querySelectorAll('[data-listen]')) {
        button.addEventListener('click', () => this.hear(button.dataset.listen));
      }
      for (const button of document.querySelectorAll('[data-answer]')) {
        button.addEventListener('click', () => this.answer(button.dataset.answer));
      }
      this.showPast();
    }

    get open() {
      return !by('abx').hidden;
    }

    /** Whether trials are going on, and everything that could tell stays hidden. */
    get running() {
      return this.test !== null;
    }

    setUp() {
      const first = by('abx-b');
      const other = first.options[Math.min(1, first.options.length - 1)];
      const chosen = this.player.version || Number(other.value);
      by('abx-a').value = '0';
      by('abx-b').value = String(chosen);
      this.test = null;
      this.view('abx-setup');
    }

    close() {
      this.test = null;
      this.view('');
    }

    /** Show one part of the panel, or with '' the buttons of the versions again. */
    view(part) {
      show('abx', part !== '');
      show('versions', part === '');
      for (const id of ['abx-setup', 'abx-trial', 'abx-result']) show(id, id === part);
      by('abx-open').setAttribute('aria-expanded', String(part !== ''));
      by('abx-open').disabled = part === 'abx-trial';
      by('match').disabled = part === 'abx-trial'; // level is part of what is tested
      document.body.classList.toggle('blind', part === 'abx-trial');
      this.player.onchange();
      if (part !== '') by('abx').scrollIntoView({ block: 'nearest' });
    }

    /** Begin as soon as both versions are loaded: a pause before one of them would tell. */
    async start() {
      const a = Number(by('abx-a').value);
      const b = Number(by('abx-b').value);
      if (a === b) {
        this.player.error = 'Choose two different versions';
        this.player.onchange();
        return;
      }
      this.player.open();
      this.player.sounds.pinned = new Set([0, a, b]);
      if (!(await this.player.ready(a)) || !(await this.player.ready(b))) return;
      this.index = { A: a, B: b };
      const names = this.data.versions;
      this.test = new earvae.AbxTest(names[a].name, names[b].name, Number(by('abx-count').value));
      this.view('abx-trial');
      this.hear('A');
      this.showTrial();
      by('abx-trial').focus(); // and Space plays
    }

    hear(which) {
      if (!this.test) return;
      this.listen = which;
      for (const button of document.querySelectorAll('[data-listen]')) {
        button.setAttribute('aria-pressed', String(button.dataset.listen === which));
      }
      this.player.select(this.index[which === 'X' ? this.test.x : which]);
      if (!this.player.playing) this.player.play();
    }

    answer(choice) {
      if (!this.test) return;
      this.test.answer(choice);
      if (this.test.done) {
        this.finish();
      } else {
        this.hear('A'); // X is drawn anew; staying on it would let one hear whether it changed
        this.showTrial();
      }
    }

    showTrial() {
      const test = this.test;
      by('abx-number').textContent = 'Trial ' + (test.trials.length + 1) + ' of ' + test.planned;
      by('abx-running').textContent = by('abx-show').checked && test.trials.length
        ? test.correct + ' of ' + test.trials.length + ' right, ' + earvae.formatP(test.p) : '';
    }

    finish() {
      const test = this.test;
      this.test = null;
      if (!test || !test.trials.length) {
        this.close();
        return;
      }
      this.record = test.record({
        report: this.data.report, track: this.data.track, equally_loud: this.matched(),
        audio: this.data.audio, listener: by('listener').value.trim(),
      });
      this.store.add(this.record);
      this.showResult(test);
      this.showPast();
      this.view('abx-result');
      by('abx-result').focus();
    }

    showResult(test) {
      const count = test.trials.length;
      by('abx-score').textContent = test.correct + ' of ' + count + ' right, ' + earvae.formatP(test.p);
      by('abx-reading').textContent = this.reading(test);
      by('abx-dots').replaceChildren.apply(by('abx-dots'), test.trials.map(function (trial) {
        const dot = document.createElement('li');
        dot.className = trial.correct ? 'right' : 'wrong';
        dot.textContent = trial.correct ? '✓' : '×';
        dot.title = 'X was ' + trial.x + ', answered ' + trial.answer + ' after ' + trial.seconds + ' s';
        return dot;
      }));
    }

    /** The result in words. */
    reading(test) {
      const share = test.p > 0.9995 ? '100' : (100 * test.p).toPrecision(2);
      const evidence = test.p < 0.01 ? 'good evidence' : test.p < 0.05 ? 'some evidence' : 'no evidence';
      let text = 'Guessing does at least as well in ' + share + ' % of such tests. That is ' + evidence
        + ' that you hear a difference between ' + test.a + ' and ' + test.b + '.';
      if (!test.done) {
        text += ' The test was ended before its ' + test.planned + ' trials, so p may flatter.';
      }
      if (!this.store.kept) text += ' This browser keeps nothing for pages on disk: save the result.';
      return text;
    }

    /** Earlier tests of this track. */
    showPast() {
      const records = this.store.all().filter((record) => record.track === this.data.track);
      show('past', records.length > 0);
      by('past-rows').replaceChildren.apply(by('past-rows'), records.map(function (record) {
        const row = document.createElement('tr');
        const figures = [record.correct, record.count, record.p_value.toFixed(4)];
        const when = new Date(record.finished).toLocaleString();
        [record.a, record.b].concat(figures, [when]).forEach(function (text, column) {
          const cell = document.createElement('td');
          cell.className = column > 1 && column < 5 ? 'figure' : 'name';
          cell.textContent = text;
          row.append(cell);
        });
        return row;
      }));
    }

    saveAll() {
      earvae.save('abx_results.json', this.store.all());
    }

    forget() {
      if (!confirm('Forget all blind tests of this report that this browser keeps?')) return;
      this.store.forget();
      this.showPast();
    }
  };
})();
