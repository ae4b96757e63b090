/** One image in full: all captions, metadata and regions, and the words that the regions match. */

import { getItem, imageUrl, loadBlob, search, thumbnailUrl } from '../core/api.js';
import { byId, h, printable, replace } from '../core/dom.js';
import { showImage } from '../core/images.js';
import { getToken } from '../core/token.js';
import { isEmpty, state, update } from '../core/state.js';
import { isSingleText, makeQuery } from '../query/parts.js';
import { makeActions, searchSimilar } from './actions.js';
import { listenForAreas } from './areas.js';
import { getHits } from './list.js';
import { bringSmallBoxesToFront, drawOutlines, listOutlines, makeWords } from './regions.js';

const WIDTH = 1024; // pixels of the image that is shown
let shownId = '';
let controller = new AbortController();

/** Listen for the buttons of the lightbox, and for what closes it. */
export function listenForLightbox() {
  const dialog = byId('lightbox');
  dialog.addEventListener('close', () => state.open && update({ open: '' }));
  dialog.addEventListener('click', (event) => event.target === dialog && dialog.close());
  byId('close').addEventListener('click', () => dialog.close());
  byId('previous').addEventListener('click', () => step(-1));
  byId('next').addEventListener('click', () => step(1));
  for (const [event, isLit] of [['pointerover', true], ['pointerout', false], ['focusin', true], ['focusout', false]]) {
    dialog.addEventListener(event, ({ target }) => light(target.closest('[data-region]'), isLit));
  }
}

/** Show the image that the state names, or close the lightbox. */
export function showOpenImage() {
  const dialog = byId('lightbox');
  if (state.open === shownId) return;
  shownId = state.open;
  controller.abort();
  if (!shownId) {
    if (dialog.open) dialog.close();
    return;
  }
  controller = new AbortController();
  fillLightbox(shownId, controller.signal);
  if (!dialog.open) dialog.showModal();
}

/** Show the image before or after the one that is shown, among the hits. */
export function step(distance) {
  const ids = [...new Set(getHits().map((hit) => hit.image_id))];
  const next = ids[ids.indexOf(shownId) + distance];
  if (next !== undefined && ids.includes(shownId)) update({ open: next }, false);
}

async function fillLightbox(id, signal) {
  const hit = getHits().find((one) => one.image_id === id && state.target === 'images');
  const image = h('img', { alt: printable(hit?.captions[0] || id) });
  showImage(image, thumbnailUrl(id, WIDTH, state.version));
  byId('lightbox-title').textContent = printable(id);
  replace(byId('picture'), image);
  replace(byId('details'), h('p', { class: 'soft', text: 'Loading …' }));
  try {
    const item = await getItem(id, state.version, signal);
    const found = hit || (await findHit(id, signal));
    if (!signal.aborted) showItem(item, found, image);
  } catch (error) {
    if (!signal.aborted) replace(byId('details'), h('p', { class: 'problem', text: error.message }));
  }
}

/** Find out why an image that is not among the hits matches the query, such as one of a permalink. */
async function findHit(id, signal) {
  if (!isSingleText(state) || isEmpty(state) || state.target !== 'images') return null;
  const where = `id = '${id.replaceAll("'", "''")}'`;
  const answer = await search({ queries: [makeQuery(state)], k: 1, where, version: state.version }, signal);
  return answer.answers[0].hits[0] || answer.answers[0].weak[0] || null;
}

function showItem(item, hit, image) {
  const named = hit ? listOutlines(hit) : [];
  const others = item.regions
    .map((region, number) => ({ ...region, region: number, isShown: false }))
    .filter(({ region, box }) => !named.some((one) => one.region === region || isSameBox(one.box, box)));
  const outlines = [...named, ...others];
  const size = [item.width || image.naturalWidth || 1, item.height || image.naturalHeight || 1];
  const overlay = drawOutlines(size, outlines);
  bringSmallBoxesToFront(overlay);
  byId('picture').append(overlay);
  image.alt = printable(item.captions[0]?.text || item.id);
  overlay.addEventListener('click', ({ target }) => {
    const outline = outlines[target.getAttribute('data-region') ?? -1];
    if (outline) searchSimilar(item.id, outline.box);
  });
  const showArea = listenForAreas(overlay, size, (box) => searchSimilar(item.id, box));
  replace(byId('details'),
    hit ? makeScore(hit) : null,
    hit && hit.words.length ? section(named.length ? 'Words and their regions' : 'Words and their shares of the score', makeWords(hit, outlines, 'button')) : null,
    item.captions.length ? section('Captions', h('ul', {}, ...item.captions.map(({ text }) => h('li', { text: printable(text) })))) : null,
    makeActions(item.id, printable(item.id)),
    section('Metadata', makeMetadata(item)),
    outlines.length ? section('Regions: select one to search for it', makeRegionButtons(item.id, outlines)) : null,
    section('Search for an area', showArea),
    h('p', {}, makeOriginalLink(item.id)));
}

function makeScore(hit) {
  const chance = hit.probability === null ? '' : `, chance of being right ${(100 * hit.probability).toFixed(0)} %`;
  return h('p', { class: 'score', text: `Score ${hit.score.toFixed(3)}${chance}` });
}

function makeMetadata(item) {
  const size = item.width ? `${item.width} × ${item.height} pixels` : null;
  const columns = Object.entries(item.columns).map(([name, value]) => [name, Array.isArray(value) ? value.join(', ') : value]);
  const rows = [['Id', item.id], ['Size', size], ['Split', item.split], ...columns, ['Version of the index', item.version]];
  return h('dl', {}, ...rows.filter(([, value]) => value !== null)
    .flatMap(([name, value]) => [h('dt', { text: name }), h('dd', { text: printable(String(value)) })]));
}

function makeRegionButtons(id, outlines) {
  return h('div', { class: 'actions' }, ...outlines.map(({ label, box }, number) => h('button', {
    type: 'button',
    class: 'small region',
    'data-region': number,
    text: label || `region ${number + 1}`,
    'aria-label': `Search for the region ${label || number + 1}`,
    on: { click: () => searchSimilar(id, box) },
  })));
}

/** Make the link to the file; with a token, the file has to be loaded first. */
function makeOriginalLink(id) {
  const link = h('a', { href: imageUrl(id, state.version), target: '_blank', rel: 'noopener', text: 'Original file' });
  if (getToken()) {
    link.addEventListener('click', async (event) => {
      event.preventDefault();
      window.open(URL.createObjectURL(await loadBlob(imageUrl(id, state.version))));
    });
  }
  return link;
}

function section(title, content) {
  return h('section', {}, h('h3', { text: title }), content);
}

/** Light up everything in the lightbox that belongs to the same region. */
function light(element, isLit) {
  if (!element) return;
  for (const one of byId('lightbox').querySelectorAll(`[data-region="${element.dataset.region}"]`)) {
    one.classList.toggle('lit', isLit);
  }
}

function isSameBox(first, second) {
  return first.every((value, number) => Math.abs(value - second[number]) < 1);
}
