/* A MUSHRA test (ITU-R BS.1534-3): its rules, its storage, and its page. */
(function () {
  'use strict';
  const earvae = (window.earvae = window.earvae || {});
  const FORMAT = 'earvae-mushra-1';
  const ANCHORS = [3500, 7000]; // Hz, of the low and of the mid anchor
  const MOST = 12; // versions that are rated at a time

  /** The values in another order, each equally likely (Fisher and Yates). */
  earvae.shuffled = function (values) {
    const order = Array.from(values);
    for (let last = order.length - 1; last > 0; last -= 1) {
      const limit = Math.floor(2 ** 32 / (last + 1)) * (last + 1);
      let drawn = limit;
      while (drawn >= limit) drawn = crypto.getRandomValues(new Uint32Array(1))[0];
      const other = drawn % (last + 1);
      [order[last], order[other]] = [order[other], order[last]];
    }
    return order;
  };

  /** What is rated of a track: its hidden reference, the anchors, and the codecs `wanted` that have
      sound there, in random order; `version` is the place among `versions`. */
  earvae.mushraTrial = function (track, wanted) {
    const versions = [track.versions[0]];
    const conditions = [{ kind: 'reference', name: 'Reference', version: 0 }];
    for (const hertz of ANCHORS) {
      const name = 'Anchor ' + hertz / 1000 + ' kHz';
      conditions.push({ kind: 'anchor', name: name, version: versions.length });
      versions.push({ name: name, lowpass: hertz, matching: track.versions[0].matching });
    }
    for (const version of track.versions.slice(1)) {
      if (!version.script || !wanted.has(version.name)) continue;
      conditions.push({ kind: 'codec', name: version.name, version: versions.length });
      versions.push(version);
    }
    return { data: Object.assign({}, track, { versions: versions }), conditions: earvae.shuffled(conditions) };
  };

  const tracks = earvae.pageData ? earvae.pageData() : [];
  if (!tracks.length) return;
  earvae.root = '';
  const by = (id) => document.getElementById(id);
  const all = (selector) => Array.from(document.querySelectorAll(selector));
  const store = new earvae.Records('mushra', tracks[0].report);
  let panel = null;
  let test = null; // {record, left, trial, ratings, heard, since}

  function view(part) {
    for (const id of ['setup', 'trial', 'result']) by(id).hidden = id !== part;
    by('player').hidden = part !== 'trial';
  }

  function chosen(name) {
    return all('input[name=' + name + ']:checked').map((box) => box.value);
  }

  // ------------------------------------------------------------------------------ the trials

  function begin(event) {
    event.preventDefault();
    const codecs = new Set(chosen('codec'));
    const numbers = chosen('number').map(Number);
    const problem = !codecs.size ? 'Choose a codec'
      : codecs.size + 1 + ANCHORS.length > MOST ? 'Choose ' + (MOST - 1 - ANCHORS.length) + ' codecs at most'
        : !numbers.length ? 'Choose a track' : '';
    by('setup-status').textContent = problem;
    if (problem) return;
    test = {
      codecs: codecs,
      left: earvae.shuffled(numbers),
      record: {
        format: FORMAT, report: tracks[0].report, title: tracks[0].title, audio: tracks[0].audio,
        listener: by('listener').value.trim(), equally_loud: by('match').checked,
        planned: numbers.length, completed: false,
        started: new Date().toISOString(), finished: '', trials: [],
      },
    };
    next();
  }

  async function next() {
    const trial = earvae.mushraTrial(tracks[test.left.shift()], test.codecs);
    Object.assign(test, {
      trial: trial,
      ratings: trial.conditions.map(() => null),
      heard: new Set(),
      since: performance.now(),
      warned: false,
    });
    view('trial');
    by('rows').replaceChildren();
    by('trial-number').textContent = 'Track ' + (test.record.trials.length + 1) + ' of ' + test.record.planned;
    by('next').textContent = test.left.length ? 'Next track' : 'Finish';
    if (!panel) {
      panel = new earvae.Panel(trial.data, { blind: () => true, changed: shown, key: key });
      earvae.page = { player: panel.player, get sounds() { return panel.sounds; }, get test() { return test; } };
      window.addEventListener('earvae-theme', () => panel.move());
    } else {
      panel.show(trial.data);
    }
    const sounds = panel.sounds;
    test.place = -1;
    sounds.pinned = new Set(trial.data.versions.keys());
    panel.player.setLoop({ start: 0, end: panel.player.duration });
    by('trial').focus();
    say('Loading …');
    try { // all of them: a pause before one would tell
      await Promise.all(trial.data.versions.map((version, index) => sounds.load(index)));
    } catch (error) {
      say(String(error.message || error));
      return;
    }
    if (test.trial !== trial) return;
    by('rows').replaceChildren.apply(by('rows'), trial.conditions.map(row));
    hear(-1);
    say('');
  }

  /** The row of a version: a button that plays it, and a slider. */
  function row(condition, place) {
    const line = by('row').content.firstElementChild.cloneNode(true);
    const [button, slider, value] = ['button', 'input', 'output'].map((part) => line.querySelector(part));
    const name = 'Version ' + (place + 1);
    button.querySelector('kbd').textContent = String(place + 1);
    button.setAttribute('aria-label', 'Listen to ' + name.toLowerCase());
    button.addEventListener('click', () => hear(place));
    slider.setAttribute('aria-label', 'Rating of ' + name.toLowerCase());
    slider.addEventListener('focus', () => hear(place));
    const rate = function () {
      test.ratings[place] = Number(slider.value);
      value.textContent = slider.value;
      line.classList.add('rated');
      say('');
    };
    slider.addEventListener('input', rate);
    slider.addEventListener('change', rate);
    return line;
  }

  /** Hear a version by its place, or with -1 the reference that is known as such. */
  function hear(place) {
    const version = place < 0 ? 0 : test.trial.conditions[place].version;
    test.place = place;
    if (place >= 0) test.heard.add(place);
    panel.player.select(version);
    shown();
  }

  function shown() {
    if (!test || test.place === undefined) return;
    by('reference').setAttribute('aria-pressed', String(test.place < 0));
    all('#rows > *').forEach(function (line, place) {
      line.classList.toggle('heard', place === test.place);
      line.querySelector('button').setAttribute('aria-pressed', String(place === test.place));
    });
  }

  function key(event, letter) {
    if (event.key === '0' || letter === 'r') {
      hear(-1);
    } else if (/^[1-9]$/.test(event.key)) {
      const line = by('rows').children[Number(event.key) - 1];
      if (line) line.querySelector('input').focus(); // which hears it, and arrows rate it
    } else {
      return false;
    }
    return true;
  }

  function say(text) {
    by('trial-status').textContent = text;
  }

  function go() {
    const missing = test.ratings.filter((rating) => rating === null).length;
    if (missing) {
      say(missing === 1 ? 'One version is not rated yet' : missing + ' versions are not rated yet');
    } else if (!test.ratings.includes(100) && !test.warned) {
      test.warned = true;
      say('One of them is the reference, and none has 100. Look again, or go on.');
    } else {
      keep();
      if (test.left.length) next();
      else finish();
    }
  }

  function keep() {
    test.record.trials.push({
      track: test.trial.data.track,
      seconds: Math.round(performance.now() - test.since) / 1000,
      ratings: test.trial.conditions.map((condition, place) => ({
        kind: condition.kind, name: condition.name, rating: test.ratings[place],
      })),
    });
    test.record.finished = new Date().toISOString();
    test.record.completed = test.record.trials.length === test.record.planned;
    store.add(test.record);
    showPast();
  }

  /** Tests that this browser keeps. */
  function showPast() {
    by('past').hidden = !store.all().length;
    by('past-count').textContent = store.all().length;
  }

  function finish() {
    panel.player.pause();
    const record = test.record;
    if (!record.trials.length) {
      view('setup');
      return;
    }
    by('result-text').textContent = record.trials.length + ' of ' + record.planned
      + (record.planned === 1 ? ' track' : ' tracks') + ' rated. Save the ratings and hand them in.';
    by('ratings').replaceChildren.apply(by('ratings'), record.trials.map(function (trial) {
      const line = document.createElement('li');
      const given = trial.ratings.slice().sort((a, b) => b.rating - a.rating);
      line.textContent = trial.track + ': ' + given.map((r) => r.name + ' ' + r.rating).join(', ');
      return line;
    }));
    view('result');
    by('result').focus();
  }

  function save() {
    const who = test.record.listener.replace(/[^A-Za-z0-9-]+/g, '_') || 'listener';
    earvae.save('mushra_' + who + '.json', test.record);
  }

  by('setup').addEventListener('submit', begin);
  by('reference').addEventListener('click', () => hear(-1));
  by('next').addEventListener('click', go);
  by('stop').addEventListener('click', function () {
    if (confirm('End the test? Tracks that are rated are kept.')) finish();
  });
  by('save').addEventListener('click', save);
  by('again').addEventListener('click', () => view('setup'));
  by('past-save').addEventListener('click', () => earvae.save('mushra_results.json', store.all()));
  by('past-forget').addEventListener('click', function () {
    if (!confirm('Forget all ratings of this report that this browser keeps?')) return;
    store.forget();
    showPast();
  });
  earvae.rememberListener(by('listener'));
  showPast();
  view('setup');
})();
