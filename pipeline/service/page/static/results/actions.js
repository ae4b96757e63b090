/** What can be done with an image of the results: search with it, add it to the query, avoid it, mark it. */

import { h } from '../core/dom.js';
import { showError } from '../core/messages.js';
import { startOver, state, update } from '../core/state.js';
import { countFreeParts, getAvoidedWeight, MAX_PARTS } from '../query/parts.js';
import { makeMarkButton } from './marks.js';

/** Search for images like one. */
export function searchSimilar(id, box = null) {
  startOver({ parts: [makePart(id, 1, box)], target: 'images' });
}

/** Add an image, or an area of it, to the query. */
export function addToQuery(id, box = null) {
  addPart(makePart(id, 1, box));
}

/** Make the results avoid an image. */
export function avoid(id) {
  addPart(makePart(id, getAvoidedWeight(state)));
}

/** Add a part to the query. */
export function addPart(part) {
  if (countFreeParts(state) < 1) {
    showError(`A search has at most ${MAX_PARTS} parts, with the marked hits. Remove one first.`);
    return;
  }
  update({ parts: [...state.parts, part], open: '' });
}

/** Make the buttons of a hit. `name` is what a screen reader calls the image. */
export function makeActions(id, name) {
  const button = (text, label, action) => h('button', {
    type: 'button', class: 'small', text, title: label, 'aria-label': `${label}: ${name}`, on: { click: action },
  });
  return h('div', { class: 'actions' },
    button('Similar', 'Similar images', () => searchSimilar(id)),
    button('+ Add', 'Add to the query', () => addToQuery(id)),
    button('− Not this', 'Not this', () => avoid(id)),
    makeMarkButton(id, 'good', name),
    makeMarkButton(id, 'bad', name));
}

function makePart(id, weight, box = null) {
  return { kind: 'image', image_id: id, weight, ...(box ? { box } : {}) };
}
