/**
 * The search that the page shows. All of it is in the address, except photos and vectors: those are kept in memory, and
 * the address only says how many there are.
 */

const EMPTY = {
  q: '', // text query
  parts: [], // further parts: {kind: text | image | photo | vector, weight, ...}, see query/parts.js
  good: [], // ids of hits that were marked as good
  bad: [], // ids of hits that were marked as bad
  where: '', // filter
  target: 'images', // images or captions
  version: '', // number or tag; empty for the published version
  minProbability: '', // hits below it are weak; empty for the limit of the index
  open: '', // id of the image in the lightbox
  numMissing: 0, // photos and vectors that the address has and the memory does not
};
const memory = new Map(); // photos and vectors by their number, for the back button
const listeners = [];
let nextNumber = 1;

export let state = { ...EMPTY };

/** Call a function with the new and the former state after each change. */
export function onChange(listener) {
  listeners.push(listener);
}

/**
 * Change the search.
 *
 * @param {Object} changes Values of the state.
 * @param {boolean} isNewStep Whether the back button leads to the search before; false replaces its address.
 */
export function update(changes, isNewStep = true) {
  const former = state;
  state = { ...state, ...changes, numMissing: 0 };
  const numbers = state.parts.filter(isUnwritten).map((part) => {
    part.number ??= nextNumber++;
    memory.set(part.number, part);
    return part.number;
  });
  history[isNewStep ? 'pushState' : 'replaceState']({ numbers }, '', toAddress(state));
  notify(former);
}

/** Begin a new search: everything but the version, the filter and the target is as in an empty page. */
export function startOver(changes) {
  const { where, target, version, minProbability } = state;
  update({ ...EMPTY, where, target, version, minProbability, ...changes });
}

/** Show the search of the address: at the start, and after the back button. */
export function readAddress() {
  const former = state;
  const parameters = new URLSearchParams(location.search);
  const kept = (history.state?.numbers || []).map((number) => memory.get(number)).filter(Boolean);
  state = { ...fromParameters(parameters), numMissing: Number(parameters.get('photos') || 0) - kept.length };
  state.parts.push(...kept);
  notify(former);
}

/** Return the address of a search, relative to that of the page. */
export function toAddress(search) {
  const parameters = new URLSearchParams();
  const add = (name, value) => value && parameters.append(name, value);
  add('q', search.q);
  for (const part of search.parts.filter((one) => !isUnwritten(one))) {
    const { kind, ...values } = part;
    parameters.append('part', JSON.stringify(values));
  }
  add('photos', search.parts.filter(isUnwritten).length || '');
  for (const id of search.good) add('good', id);
  for (const id of search.bad) add('bad', id);
  add('where', search.where);
  add('for', search.target === EMPTY.target ? '' : search.target);
  add('version', search.version);
  add('min_probability', search.minProbability);
  add('open', search.open);
  const text = parameters.toString();
  return text ? `?${text}` : location.pathname;
}

/** Return whether a search asks for nothing. */
export function isEmpty(search) {
  return !search.q.trim() && !search.parts.length && !search.good.length;
}

/** Read the parameters of an address. `like` and `without` are those of earlier versions of the page. */
export function fromParameters(parameters) {
  const parts = parameters.getAll('part').map(readPart).filter(Boolean);
  for (const id of parameters.getAll('like')) parts.push({ kind: 'image', image_id: id, weight: 1 });
  for (const text of parameters.getAll('without')) parts.push({ kind: 'text', text, weight: -0.5 });
  return {
    ...EMPTY,
    q: parameters.get('q') || '',
    parts,
    good: parameters.getAll('good'),
    bad: parameters.getAll('bad'),
    where: parameters.get('where') || '',
    target: parameters.get('for') === 'captions' ? 'captions' : EMPTY.target,
    version: parameters.get('version') || '',
    minProbability: parameters.get('min_probability') || '',
    open: parameters.get('open') || '',
  };
}

/** Read a part of an address: that of the API, a text or an image of the index; null if it is not one. */
function readPart(text) {
  try {
    const { text: words, image_id: id, box, weight } = JSON.parse(text);
    const number = Number.isFinite(weight) ? weight : 1;
    if (typeof words === 'string') return { kind: 'text', text: words, weight: number };
    if (typeof id !== 'string') return null;
    const isBox = Array.isArray(box) && box.length === 4 && box.every(Number.isFinite);
    return { kind: 'image', image_id: id, weight: number, ...(isBox ? { box } : {}) };
  } catch {
    return null;
  }
}

function isUnwritten(part) {
  return part.kind === 'photo' || part.kind === 'vector';
}

function notify(former) {
  for (const listener of listeners) listener(state, former);
}
