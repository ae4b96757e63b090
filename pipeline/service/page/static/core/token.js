/** The token of a service that needs one: asked for in a dialog, kept for this tab or for this browser. */

import { byId } from './dom.js';

const KEY = 'tern-token';
let pending = null; // the question that is open, which all requests wait for

/** Return the token, or an empty text. */
export function getToken() {
  return sessionStorage.getItem(KEY) || localStorage.getItem(KEY) || '';
}

/**
 * Ask for another token than the one that a request was sent with.
 *
 * @param {string} refused Token that the service has refused; empty if the request had none.
 * @returns {Promise} Resolves when there is another one.
 */
export function askForToken(refused) {
  if (getToken() !== refused) return Promise.resolve(); // entered while the request was sent
  pending ??= ask(refused).finally(() => {
    pending = null;
  });
  return pending;
}

function ask(refused) {
  const dialog = byId('token-dialog');
  byId('token-error').hidden = !refused;
  byId('token').value = '';
  dialog.showModal();
  return new Promise((resolve) => {
    byId('token-form').onsubmit = (event) => {
      event.preventDefault();
      const token = byId('token').value.trim();
      if (!token) return;
      sessionStorage.removeItem(KEY);
      localStorage.removeItem(KEY);
      (byId('token-remember').checked ? localStorage : sessionStorage).setItem(KEY, token);
      dialog.close();
      resolve();
    };
    dialog.oncancel = (event) => event.preventDefault(); // without a token, nothing else works
  });
}
