/* How likely a blind test's result is for somebody who guesses. */
(function (root) {
  'use strict';
  const earvae = (root.earvae = root.earvae || {});

  /** One-sided p-value: the probability of `right` or more right answers in `trials` guesses. */
  earvae.binomialP = function (right, trials) {
    if (right <= 0) return 1;
    // The probability of exactly `right`, by its logarithm: 2^-1100 is no number of this machine.
    let log = -trials * Math.LN2;
    for (let i = 1; i <= trials - right; i += 1) log += Math.log((right + i) / i);
    // Each further term relative to that one.
    let sum = 1;
    let term = 1;
    for (let k = right; k < trials; k += 1) {
      term *= (trials - k) / (k + 1);
      sum += term;
    }
    return Math.min(1, Math.exp(log + Math.log(sum)));
  };

  /** A p-value as text. */
  earvae.formatP = function (p) {
    if (p < 0.0001) return 'p < 0.0001';
    return 'p = ' + (p < 0.001 ? p.toFixed(4) : p.toFixed(3));
  };
})(typeof window === 'undefined' ? globalThis : window);
