/** What the page says to everybody, those who use a screen reader included. */

import { byId, h, replace } from './dom.js';

/** Say what the page does or has found; the text is read out, and errors are removed. */
export function showStatus(text) {
  byId('status').textContent = text;
  replace(byId('error'));
}

/** Show an error, with a button that tries again where that can help. */
export function showError(text, retry = null) {
  const button = retry && h('button', { type: 'button', text: 'Try again', on: { click: retry } });
  replace(byId('error'), h('p', { class: 'problem', text }), button);
}

/** Show what a person should know of the answers. */
export function showNotes(notes) {
  replace(byId('notes'), ...notes.filter(Boolean).map((note) => h('p', { class: 'soft', text: note })));
}
