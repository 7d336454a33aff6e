/* All versions of a track play at once, sample by sample together; one of them is heard.

   Switching moves two gains in 10 ms, so the position cannot change. Seeking starts a new set of
   sources (a "deck") and fades the old one out. Times are seconds; positions are those in the
   track, the context's own clock says when. */
(function () {
  'use strict';
  const earvae = (window.earvae = window.earvae || {});
  const FADE = 0.01;
  const LEAD = 0.03; // between asking for sound and its start: sources need notice to start together
  const NOTICE = 0.01; // at the least
  const SEAM = 0.005; // a loop's end fades out, its start fades in
  const SHORTEST_LOOP = 0.1;

  /** A gain that moves in FADE seconds. It keeps its own account of where it is, for browsers
      disagree on what an AudioParam's value says during a fade. */
  class Fader {
    constructor(context, value, begin) {
      this.node = context.createGain();
      this.node.gain.setValueAtTime(value, begin || 0);
      this.from = this.to = value;
      this.start = begin || 0;
    }

    at(time) {
      const share = Math.min(1, Math.max(0, (time - this.start) / FADE));
      return this.from + share * (this.to - this.from);
    }

    /** Move to `target` from the time `start` on. */
    move(target, start, now) {
      const gain = this.node.gain;
      const current = this.at(now);
      gain.cancelScheduledValues(now);
      gain.setValueAtTime(current, now);
      gain.setValueAtTime(current, start);
      gain.linearRampToValueAtTime(target, start + FADE);
      this.from = current;
      this.to = target;
      this.start = start;
    }
  }

  earvae.Player = class {
    /** `onchange` is called whenever something other than the position changes. */
    constructor(sounds, duration, onchange) {
      this.sounds = sounds;
      this.duration = duration;
      this.onchange = onchange;
      this.context = null;
      this.deck = null;
      this.wanted = false; // to play, as soon as the version is loaded
      this.offset = 0; // where it stands while it does not play
      this.version = 0; // chosen; heard as soon as it is loaded
      this.heard = 0;
      this.loop = null; // {start, end}
      this.levels = []; // factor by version, 1 if not given
      this.loading = false;
      this.error = '';
      setInterval(() => this.tick(), 100);
    }

    get playing() {
      return this.deck !== null;
    }

    now() {
      return this.context ? this.context.currentTime : 0;
    }

    /** The position that sources are at, at the context's time `now`. */
    position(now) {
      const deck = this.deck;
      if (!deck) return this.offset;
      const time = now === undefined ? this.now() : now;
      return this.within(deck.offset + Math.max(0, time - deck.start), deck.loop);
    }

    /** The position that reaches the ears now. */
    audible() {
      const delay = (this.context && this.context.outputLatency) || 0;
      return this.position(this.now() - delay);
    }

    within(position, loop) {
      if (loop && position >= loop.end) {
        position = loop.start + ((position - loop.end) % (loop.end - loop.start));
      }
      return Math.min(Math.max(0, position), this.duration);
    }

    /** Start, or say so and start when the version is loaded. Call it from a click or a key. */
    async play() {
      if (this.playing || this.wanted) return;
      this.wanted = true;
      this.open();
      if (await this.ready(this.version)) {
        this.heard = this.version;
        if (this.wanted) this.start(this.offset >= this.duration - 0.02 ? 0 : this.offset);
      }
      this.wanted = false;
      this.onchange();
    }

    pause() {
      this.wanted = false;
      if (!this.deck) return;
      this.offset = this.position();
      this.retire(this.deck, this.now());
      this.deck = null;
      this.onchange();
    }

    /** Other sounds, from their beginning on, with the same version chosen if it is there. */
    exchange(sounds, duration) {
      this.pause();
      this.sounds.closed = true;
      this.sounds = sounds;
      this.duration = duration;
      this.offset = 0;
      this.loop = null;
      this.error = '';
      if (!sounds.can(this.version)) this.version = 0;
      this.heard = this.version;
    }

    seek(position) {
      const target = Math.min(Math.max(0, position), this.duration);
      if (this.playing) {
        this.start(target);
      } else {
        this.offset = target;
      }
      this.onchange();
    }

    /** Hear another version from now on, at the same place. */
    async select(version) {
      this.version = version;
      this.onchange();
      if (!(await this.ready(version)) || this.version !== version) return;
      this.heard = version;
      if (this.deck) {
        this.addVoices(this.deck);
        this.balance();
      }
      this.onchange();
    }

    /** `{start, end}` in seconds, or null. */
    setLoop(loop) {
      if (loop) {
        const end = Math.min(this.duration, Math.max(loop.end, loop.start + SHORTEST_LOOP));
        const shortest = Math.min(SHORTEST_LOOP, this.duration);
        loop = { start: Math.max(0, Math.min(loop.start, end - shortest)), end: end };
      }
      const position = this.position();
      this.loop = loop;
      if (this.playing) this.start(position);
      this.onchange();
    }

    setLevels(levels) {
      this.levels = levels;
      if (this.deck) this.balance();
      this.onchange();
    }

    // -------------------------------------------------------------------------- the machinery

    /** Browsers let a page sound only after a tap, so the context is made by the first one. */
    open() {
      if (!this.context) {
        try {
          this.context = new AudioContext({ sampleRate: this.sounds.rate });
        } catch (error) {
          this.context = new AudioContext(); // a rate that it refuses: the sources resample
        }
        this.output = this.context.createGain();
        this.output.connect(this.context.destination);
      }
      if (this.context.state !== 'running') this.context.resume();
    }

    async ready(version) {
      if (this.sounds.has(version)) return true;
      this.loading = true;
      this.onchange();
      try {
        await this.sounds.load(version);
        this.error = '';
        return true;
      } catch (error) {
        this.error = String(error.message || error);
        return false;
      } finally {
        this.loading = false;
        this.onchange();
      }
    }

    /** On the grid of samples, so that no source has to interpolate. */
    snap(time) {
      return Math.ceil(time * this.sounds.rate - 1e-6) / this.sounds.rate;
    }

    start(position) {
      const loop = this.loop && Object.assign({}, this.loop);
      if (loop && position >= loop.end) position = loop.start;
      const begin = this.snap(this.now() + LEAD);
      const deck = {
        start: begin,
        offset: this.snap(position),
        loop: loop,
        fader: new Fader(this.context, 0),
        voices: new Map(),
        seams: 0,
      };
      deck.fader.node.connect(this.output);
      deck.fader.move(1, begin, this.now());
      if (this.deck) this.retire(this.deck, begin);
      this.deck = deck;
      this.addVoices(deck);
      this.scheduleSeams();
    }

    /** Every version that is loaded and not yet in the deck joins it, silent unless chosen. */
    addVoices(deck) {
      this.sounds.buffers.forEach((buffer, version) => {
        if (!deck.voices.has(version)) deck.voices.set(version, this.voice(deck, buffer, version));
      });
    }

    voice(deck, buffer, version) {
      const source = this.context.createBufferSource();
      source.buffer = buffer;
      if (deck.loop) {
        source.loop = true;
        source.loopStart = deck.loop.start;
        source.loopEnd = deck.loop.end;
      }
      // The clock goes on while sources are made; one that is late joins where the others are.
      const now = this.now();
      const begin = now < deck.start - NOTICE ? deck.start : this.snap(now + LEAD);
      const heard = version === this.heard ? this.level(version) : 0;
      const late = begin > deck.start;
      const fader = new Fader(this.context, late ? 0 : heard);
      if (late && heard) fader.move(heard, begin, now);
      source.connect(fader.node);
      fader.node.connect(deck.fader.node);
      source.start(begin, this.snap(this.within(deck.offset + begin - deck.start, deck.loop)));
      return { source: source, fader: fader, begin: begin };
    }

    level(version) {
      const level = this.levels[version];
      return level === undefined ? 1 : level;
    }

    /** Fade to the version that is to be heard. Equal sound stays equal: the gains sum to one. */
    balance() {
      const now = this.now();
      // A voice that was just added has to sound before the others may fade.
      const heard = this.deck.voices.get(this.heard);
      const from = Math.max(now, heard ? heard.begin : now);
      this.deck.voices.forEach((voice, version) => {
        const target = version === this.heard ? this.level(version) : 0;
        if (voice.fader.to !== target) voice.fader.move(target, from, now);
      });
    }

    retire(deck, when) {
      deck.fader.move(0, when, this.now());
      deck.voices.forEach(function (voice) {
        voice.source.stop(Math.max(voice.begin, when) + 2 * FADE);
      });
      const node = deck.fader.node;
      setTimeout(function () { node.disconnect(); }, 1000 * (when - this.now() + 10 * FADE));
    }

    /** Loops end and start in silence of a few milliseconds, else each round would click. */
    scheduleSeams() {
      const deck = this.deck;
      if (!deck || !deck.loop) return;
      const length = deck.loop.end - deck.loop.start;
      const first = deck.start + deck.loop.end - deck.offset;
      const gain = deck.fader.node.gain;
      for (;;) {
        const seam = first + deck.seams * length;
        if (seam > this.now() + 3) return; // timers of hidden pages run once a second
        deck.seams += 1;
        if (seam - SEAM > Math.max(this.now(), deck.start + FADE)) {
          gain.setValueAtTime(1, seam - SEAM);
          gain.linearRampToValueAtTime(0, seam);
          gain.linearRampToValueAtTime(1, seam + SEAM);
        }
      }
    }

    tick() {
      if (!this.deck) return;
      this.scheduleSeams();
      this.addVoices(this.deck); // what was loaded meanwhile
      if (!this.deck.loop && this.position() >= this.duration) {
        this.pause();
        this.offset = 0;
        this.onchange();
      }
    }
  };
})();
