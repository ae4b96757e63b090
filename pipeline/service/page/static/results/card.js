/** The card of a hit: its image with outlined regions, score, chance, words, caption and buttons. */

import { h, printable } from '../core/dom.js';
import { makeThumbnail } from '../core/images.js';
import { startOver, state, update } from '../core/state.js';
import { makeActions } from './actions.js';
import { drawOutlines, listOutlines, makeWords } from './regions.js';

/**
 * Make the card of a hit.
 *
 * @param {Object} hit A hit of the API.
 * @param {number} rank Its place among the hits, from 1.
 */
export function makeCard(hit, rank) {
  const isCaption = state.target === 'captions';
  const caption = printable(hit.captions[0] || '');
  const name = caption || printable(hit.image_id);
  const outlines = isCaption ? [] : listOutlines(hit);
  const image = makeThumbnail(hit.image_id, isCaption ? '' : name, state.version);
  const button = h('button', {
    type: 'button',
    class: 'thumbnail',
    'aria-label': `Open ${rank}: ${name}`,
    'data-id': hit.image_id,
    on: { click: () => update({ open: hit.image_id }) },
  }, image, hit.size && outlines.length ? drawOutlines(hit.size, outlines) : null);
  return h('li', { class: 'card' },
    button,
    h('div', { class: 'about' },
      h('p', { class: 'score' }, `${rank}. `, h('span', { title: 'Score, at most 1', text: hit.score.toFixed(3) }), makeChance(hit)),
      makeWords(hit, outlines),
      caption ? h('p', { text: caption }) : null,
      h('small', { title: hit.captions.map(printable).join('\n'), text: printable(hit.image_id) }),
      isCaption ? makeCaptionActions(hit, name) : makeActions(hit.image_id, name)));
}

/** Make what a screen shows in place of hits that are being loaded. */
export function makeEmptyCards(count) {
  return Array.from({ length: count }, () => h('li', { class: 'card loading', 'aria-hidden': 'true' },
    h('div', { class: 'thumbnail' }), h('div', { class: 'about' })));
}

function makeChance(hit) {
  if (hit.probability === null) return null;
  const percent = hit.probability < 0.005 ? '< 1' : Math.round(100 * hit.probability);
  return h('span', { class: 'chance', title: 'Chance that this hit is right', text: `chance ${percent} %` });
}

function makeCaptionActions(hit, name) {
  const search = () => startOver({ q: hit.captions[0], target: 'images' });
  return h('div', { class: 'actions' }, h('button', {
    type: 'button', class: 'small', text: 'Images for this caption', 'aria-label': `Images for: ${name}`, on: { click: search },
  }));
}
