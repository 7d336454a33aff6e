/* Light or dark: the system's choice unless the reader chose. Runs before the page is painted. */
(function () {
  'use strict';
  const KEY = 'earvae-theme';
  const ORDER = ['automatic', 'light', 'dark'];

  // Storage may be forbidden for pages on disk; then the choice lasts as long as the page.
  function remembered() {
    try { return localStorage.getItem(KEY); } catch (error) { return null; }
  }
  function remember(theme) {
    try { localStorage.setItem(KEY, theme); } catch (error) { /* no storage here */ }
  }

  let theme = ORDER.includes(remembered()) ? remembered() : 'automatic';

  const system = window.matchMedia('(prefers-color-scheme: dark)');

  function apply() {
    const chosen = theme === 'automatic' ? (system.matches ? 'dark' : 'light') : theme;
    document.documentElement.dataset.theme = chosen;
    const button = document.getElementById('theme');
    if (button) button.textContent = 'Theme: ' + theme;
    window.dispatchEvent(new Event('earvae-theme')); // canvases repaint
  }

  apply();
  document.addEventListener('DOMContentLoaded', function () {
    apply();
    document.getElementById('theme').addEventListener('click', function () {
      theme = ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length];
      remember(theme);
      apply();
    });
  });
  if (system.addEventListener) system.addEventListener('change', apply);
})();
