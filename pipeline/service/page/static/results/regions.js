/** Words of a query and the regions of an image that they match: drawn over the image, each in the other's color. */

import { h, svg } from '../core/dom.js';

export const NUM_COLORS = 6; // of `rect[data-region]` and `.word[data-region]` in style.css
const WHOLE_IMAGE = 'whole image';
const MIN_SHOWN_SHARE = 0.05; // of a word, for its share to be written

/**
 * List the outlines of a hit, best first: regions that its words match, or those that raise its score.
 *
 * @param {Object} hit A hit of the API.
 * @returns {Object[]} Each has `box`, `label`, `region` (number in the image, or null) and `isShown` (without the pointer).
 */
export function listOutlines(hit) {
  const shares = new Map();
  for (const word of hit.words) shares.set(word.region, (shares.get(word.region) || 0) + word.share);
  const named = new Map(hit.words
    .filter((word) => word.box && word.label !== WHOLE_IMAGE && shares.get(word.region) > 0)
    .map((word) => [word.region, { box: word.box, label: word.label, region: word.region }]));
  const outlines = [...named.values()].sort((a, b) => shares.get(b.region) - shares.get(a.region));
  const used = outlines.length ? outlines : hit.regions.map((region) => ({ ...region, region: null }));
  return used.slice(0, NUM_COLORS).map((one, number) => ({ ...one, isShown: number < hit.regions.length }));
}

/** Draw boxes over an image of `size` pixels; `number` of an outline is its color, from `listOutlines`. */
export function drawOutlines(size, outlines) {
  const boxes = outlines.map(({ box: [x1, y1, x2, y2], isShown }, number) => svg('rect', {
    x: Math.min(x1, x2),
    y: Math.min(y1, y2),
    width: Math.abs(x2 - x1),
    height: Math.abs(y2 - y1),
    'data-region': number,
    class: isShown ? null : 'on-hover',
  }));
  return svg('svg', { viewBox: `0 0 ${size[0]} ${size[1]}`, 'aria-hidden': 'true' }, ...boxes);
}

/** Put the small boxes of a drawing over the large ones, so that the pointer reaches all of them. */
export function bringSmallBoxesToFront(drawing) {
  const getArea = (box) => box.getAttribute('width') * box.getAttribute('height');
  drawing.append(...[...drawing.children].sort((a, b) => getArea(b) - getArea(a)));
}

/**
 * Make the words of a hit; each has the number of its outline, so that the style sheet connects them.
 *
 * @param {Object} hit A hit of the API.
 * @param {Object[]} outlines See `listOutlines`.
 * @param {string} tag Element of a word: `span`, or `button` where it can be reached with the keyboard.
 */
export function makeWords(hit, outlines, tag = 'span') {
  const words = hit.words.map((word) => {
    const number = outlines.findIndex((one) => one.region === word.region);
    const percent = `${Math.round(100 * word.share)} %`;
    return h(tag, {
      class: 'word',
      title: `${percent} of the score: ${word.label || 'region'} ${word.cosine.toFixed(2)}`,
      'data-region': number < 0 ? null : number,
      type: tag === 'button' ? 'button' : null,
    }, word.word, word.share >= MIN_SHOWN_SHARE ? h('sub', { text: percent }) : null);
  });
  return words.length ? h('p', { class: 'words' }, ...words.flatMap((word) => [word, ' '])) : null;
}
