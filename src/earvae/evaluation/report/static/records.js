/* What a listener leaves behind: records in the browser's storage, and files. */
(function () {
  'use strict';
  const earvae = (window.earvae = window.earvae || {});

  /** The records of a report in the browser's storage, or in memory where that is forbidden. */
  earvae.Records = class {
    constructor(kind, report) {
      this.key = 'earvae-' + kind + ':' + report;
      this.memory = [];
      this.kept = true; // whether the browser keeps what is added
    }

    all() {
      try {
        const found = JSON.parse(localStorage.getItem(this.key) || '[]');
        return Array.isArray(found) ? found : [];
      } catch (error) {
        return this.memory;
      }
    }

    /** Keep a record, in place of one that was started at the same time. */
    add(record) {
      const records = this.all().filter((other) => other.started !== record.started).concat([record]);
      this.memory = records;
      try {
        localStorage.setItem(this.key, JSON.stringify(records));
      } catch (error) {
        this.kept = false;
      }
    }

    forget() {
      this.memory = [];
      try { localStorage.removeItem(this.key); } catch (error) { /* nothing is stored */ }
    }
  };

  /** Offer `content` as a file. */
  earvae.save = function (name, content) {
    const blob = new Blob([JSON.stringify(content, null, 2) + '\n'], { type: 'application/json' });
    const link = document.createElement('a');
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(function () { URL.revokeObjectURL(link.href); }, 10000);
  };
})();
