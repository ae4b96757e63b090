/** The parts of the query as chips, each with its weight; and the marked hits. */

import { makeThumbnail } from '../core/images.js';
import { byId, h, printable, replace } from '../core/dom.js';
import { state, update } from '../core/state.js';
import { addPart } from '../results/actions.js';
import { BAD_WEIGHT, describePart, GOOD_WEIGHT, getAvoidedWeight } from '../query/parts.js';
import { openPhoto } from './photo_area.js';

const MAX_WEIGHT = 100; // of the API

/** Listen for the form that adds a text to the query. */
export function listenForTexts() {
  byId('add-text').addEventListener('submit', (event) => {
    event.preventDefault();
    const input = byId('added-text');
    const text = input.value.trim();
    if (!text) return;
    const weight = byId('added-sign').value === 'without' ? getAvoidedWeight(state) : 1;
    input.value = '';
    addPart({ kind: 'text', text, weight });
  });
  byId('clear').addEventListener('click', () => update({ parts: [], good: [], bad: [] }));
}

/** Show the parts and the marked hits of the query. */
export function showChips() {
  const chips = state.parts.map((part, number) => makeChip(part, number));
  for (const name of ['good', 'bad']) {
    const weight = name === 'good' ? GOOD_WEIGHT : BAD_WEIGHT;
    chips.push(...state[name].map((id) => makeMark(id, name, weight / state[name].length)));
  }
  replace(byId('chips'), ...chips);
  byId('clear').hidden = !chips.length;
  const isMissing = state.numMissing > 0;
  const hasFiles = state.parts.some(({ kind }) => kind === 'photo' || kind === 'vector');
  byId('missing-photos').hidden = !isMissing;
  byId('not-in-address').hidden = !hasFiles || isMissing;
}

function makeChip(part, number) {
  const text = printable(describePart(part));
  const weight = h('input', {
    type: 'number', step: 0.25, min: -MAX_WEIGHT, max: MAX_WEIGHT, value: part.weight, 'aria-label': `Weight of ${text}`,
  });
  weight.addEventListener('change', () => {
    if (weight.value !== '' && weight.checkValidity()) change(number, { ...part, weight: Number(weight.value) });
  });
  const flip = h('button', {
    type: 'button',
    class: 'sign',
    text: part.weight < 0 ? '−' : '+',
    title: part.weight < 0 ? 'Avoided. Select to search for it' : 'Searched for. Select to avoid it',
    'aria-label': `${part.weight < 0 ? 'Search for' : 'Avoid'} ${text}`,
    on: { click: () => change(number, { ...part, weight: -part.weight }) },
  });
  return h('li', { class: `chip${part.weight < 0 ? ' avoided' : ''}` },
    flip, makePicture(part, number), h('span', { class: 'name', text }), weight, makeRemoveButton(text, () => remove(number)));
}

function makePicture(part, number) {
  if (part.kind === 'image') return makeThumbnail(part.image_id, '', state.version);
  if (part.kind !== 'photo') return null;
  return h('button', {
    type: 'button',
    class: 'thumbnail',
    'aria-label': `Choose an area of ${part.name}`,
    on: { click: () => openPhoto(part, (box) => change(number, { ...part, box })) },
  }, h('img', { src: part.preview, alt: '' }));
}

function makeMark(id, name, weight) {
  const text = `${name} hit ${printable(id)}`;
  return h('li', { class: `chip ${name}` },
    h('span', { class: 'sign', text: name === 'good' ? '✓' : '✗', 'aria-hidden': 'true' }),
    makeThumbnail(id, '', state.version),
    h('span', { class: 'name', text, title: `weight ${weight.toFixed(2)}` }),
    makeRemoveButton(text, () => update({ [name]: state[name].filter((one) => one !== id) })));
}

function makeRemoveButton(text, action) {
  return h('button', { type: 'button', class: 'remove', text: '×', 'aria-label': `Remove ${text}`, on: { click: action } });
}

function change(number, part) {
  update({ parts: state.parts.map((one, position) => (position === number ? { ...part, number: undefined } : one)) });
}

function remove(number) {
  update({ parts: state.parts.filter((_, position) => position !== number) });
}
