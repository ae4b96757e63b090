/** Keys: `/` goes to the query, arrows move between hits, Enter opens, Escape closes, `s` searches for similar images. */

import { byId } from '../core/dom.js';
import { state } from '../core/state.js';
import { searchSimilar } from '../results/actions.js';
import { step } from '../results/lightbox.js';

/** Listen for keys on the whole page. */
export function listenForKeys() {
  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const { target } = event;
    if (target.matches('textarea, select, input:not([type=checkbox])')) {
      if (event.key === 'Escape') target.blur();
      else if (event.key === 'ArrowDown' && target === byId('q')) focusHit(event, () => 0);
      return;
    }
    if (byId('lightbox').open) {
      handleLightboxKey(event);
    } else if (!document.querySelector('dialog[open]')) {
      handlePageKey(event);
    }
  });
}

function handleLightboxKey(event) {
  if (event.key === 'ArrowLeft') step(-1);
  else if (event.key === 'ArrowRight') step(1);
  else if (event.key === 's') searchSimilar(state.open);
}

function handlePageKey(event) {
  const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -countColumns(), ArrowDown: countColumns() };
  if (event.key === '/') {
    event.preventDefault();
    byId('q').focus();
    byId('q').select();
  } else if (event.key in moves) {
    focusHit(event, (position) => (position < 0 ? (moves[event.key] > 0 ? 0 : -1) : position + moves[event.key]));
  } else if (event.key === 's') {
    const id = event.target.closest('.card')?.querySelector('[data-id]')?.dataset.id;
    if (id) searchSimilar(id);
  }
}

function listButtons() {
  return [...document.querySelectorAll('#results .thumbnail[data-id]')];
}

/** Move the focus to a hit; the page scrolls as usual where there is none. */
function focusHit(event, findNext) {
  const buttons = listButtons();
  const next = buttons[findNext(buttons.indexOf(document.activeElement.closest('.card')?.querySelector('[data-id]')))];
  if (!next) return;
  event.preventDefault();
  next.focus();
}

function countColumns() {
  const tops = listButtons().slice(0, 24).map((button) => button.getBoundingClientRect().top);
  return Math.max(1, tops.filter((top) => Math.abs(top - tops[0]) < 2).length);
}
