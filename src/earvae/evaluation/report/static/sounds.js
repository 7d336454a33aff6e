/* The sound files of a page, as decoded buffers.

   A page on disk may not fetch. So each file is a script that calls earvaeSound(key, base64); it is
   added to the page when it is needed and decoded by the browser. */
(function () {
  'use strict';
  const earvae = (window.earvae = window.earvae || {});
  const BUDGET = 400e6; // bytes of decoded sound that are kept; a phone has a few times that
  const waiting = new Map();

  window.earvaeSound = function (key, base64) {
    const deliver = waiting.get(key);
    if (deliver) deliver(base64);
  };

  /** The text that the script at `url` delivers under `key`. */
  function delivered(url, key) {
    return new Promise(function (resolve, reject) {
      const script = document.createElement('script');
      const finish = function () {
        waiting.delete(key);
        script.remove();
      };
      waiting.set(key, function (base64) {
        finish();
        resolve(base64);
      });
      script.onerror = function () {
        finish();
        reject(new Error('The file ' + url + ' is missing'));
      };
      script.src = url;
      document.head.append(script);
    });
  }

  function bytes(base64) {
    const text = atob(base64);
    const array = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i += 1) array[i] = text.charCodeAt(i);
    return array.buffer;
  }

  /** Buffers of versions: `{key, script}`, or `{lowpass}` of the first below so many Hz; one with
      neither has no sound. */
  earvae.Sounds = class {
    constructor(versions, rate, frames) {
      this.versions = versions;
      this.rate = rate;
      this.size = frames * 2 * 4;
      this.buffers = new Map(); // in order of use, the last used last
      this.pending = new Map();
      this.closed = false;
      this.pinned = new Set([0]); // never let go: the reference, and what a blind test compares
    }

    get(index) {
      const buffer = this.buffers.get(index);
      if (buffer) {
        this.buffers.delete(index);
        this.buffers.set(index, buffer);
      }
      return buffer;
    }

    /** Whether a version has sound. */
    can(index) {
      const version = this.versions[index];
      return Boolean(version && (version.script || version.lowpass));
    }

    has(index) {
      return this.buffers.has(index);
    }

    /** Promise of a version's buffer. */
    load(index) {
      if (this.has(index)) return Promise.resolve(this.get(index));
      if (!this.pending.has(index)) {
        const done = () => this.pending.delete(index);
        const promise = this.decode(index);
        promise.then(done, done);
        this.pending.set(index, promise);
      }
      return this.pending.get(index);
    }

    async decode(index) {
      const version = this.versions[index];
      if (version.lowpass) {
        const filtered = await earvae.lowPassed(await this.load(0), version.lowpass);
        this.buffers.set(index, filtered);
        this.release(index);
        return filtered;
      }
      const base64 = await delivered(earvae.root + version.script, version.key);
      // An offline context decodes at the file's own rate, and needs no tap on the page.
      const context = new OfflineAudioContext(2, 1, this.rate);
      const buffer = await context.decodeAudioData(bytes(base64));
      this.buffers.set(index, buffer);
      this.release(index);
      return buffer;
    }

    /** Let the least recently used buffers go until the rest is within the budget. */
    release(keep) {
      for (const index of Array.from(this.buffers.keys())) {
        if (this.buffers.size * this.size <= BUDGET) return;
        if (index !== keep && !this.pinned.has(index)) this.buffers.delete(index);
      }
    }

    /** Load all versions in the background, one after another, as far as the budget goes. */
    async preload() {
      for (let index = 0; index < this.versions.length; index += 1) {
        if (this.closed) return; // another track is shown
        const room = (this.buffers.size + 1) * this.size <= BUDGET;
        if (this.can(index) && room) {
          await this.load(index).catch(function () { /* reported when it is asked for */ });
        }
      }
    }
  };
})();
