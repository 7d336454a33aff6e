/* Tables: sorting by a column, and showing some tables of several. */
(function () {
  'use strict';

  function order(row, column) {
    const cell = row.cells[column];
    const value = cell && cell.dataset.order;
    return value === undefined || value === '' ? null : Number(value);
  }

  /** Sort rows of each body by their cells' data-order; without one they go last. */
  function sort(table, column, descending) {
    for (const body of table.tBodies) {
      const rows = Array.from(body.rows);
      rows.sort(function (one, other) {
        const a = order(one, column);
        const b = order(other, column);
        if (a === null || b === null) return (a === null) - (b === null);
        return descending ? b - a : a - b;
      });
      body.append.apply(body, rows);
    }
  }

  for (const table of document.querySelectorAll('table.sortable')) {
    const heads = Array.from(table.tHead.rows[0].cells);
    heads.forEach(function (head, column) {
      const button = head.querySelector('button');
      if (!button) return;
      button.addEventListener('click', function () {
        const descending = head.getAttribute('aria-sort') === 'ascending';
        heads.forEach(function (other) { other.removeAttribute('aria-sort'); });
        head.setAttribute('aria-sort', descending ? 'descending' : 'ascending');
        sort(table, column, descending);
      });
    });
  }

  for (const button of document.querySelectorAll('button[data-shows]')) {
    button.addEventListener('click', function () {
      const among = document.querySelectorAll('button[data-among="' + button.dataset.among + '"]');
      for (const other of among) {
        const chosen = other === button;
        other.setAttribute('aria-pressed', String(chosen));
        const shown = document.querySelectorAll('[data-shown="' + other.dataset.shows + '"]');
        for (const table of shown) table.hidden = !chosen;
      }
    });
  }

  const metric = document.getElementById('metric');
  if (metric) {
    const show = function () {
      for (const table of document.querySelectorAll('[data-metric]')) {
        table.hidden = table.id !== metric.value;
      }
    };
    metric.addEventListener('change', show);
    show(); // browsers restore the choice after going back
  }
})();
