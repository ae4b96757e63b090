/** The dialog in which a user chooses an area of a photo of the query. */

import { byId, h, replace } from '../core/dom.js';
import { listenForAreas } from '../results/areas.js';
import { drawOutlines } from '../results/regions.js';

/**
 * Open the dialog.
 *
 * @param {Object} part A photo of the query.
 * @param {Function} onSearch Called with the box of the area; undefined for the whole photo.
 */
export function openPhoto(part, onSearch) {
  const dialog = byId('photo-dialog');
  const finish = (box) => {
    dialog.close();
    onSearch(box);
  };
  const image = h('img', { src: part.preview, alt: part.name });
  const size = part.size || [1000, 1000];
  const overlay = drawOutlines(size, part.box ? [{ box: part.box, isShown: true }] : []);
  const form = listenForAreas(overlay, size, finish);
  const whole = h('button', { type: 'button', text: 'Search the whole photo', on: { click: () => finish(undefined) } });
  const close = h('button', { type: 'button', text: 'Close', on: { click: () => dialog.close() } });
  replace(dialog, h('h2', { text: part.name }), h('div', { class: 'picture' }, image, part.size ? overlay : null),
    part.size ? form : null, h('div', { class: 'actions' }, part.box ? whole : null, close));
  dialog.showModal();
}
