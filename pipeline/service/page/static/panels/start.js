/** The start page: what is indexed, what it can be asked, and examples with pictures. */

import { getOverview, search } from '../core/api.js';
import { byId, h, printable, replace } from '../core/dom.js';
import { makeThumbnail } from '../core/images.js';
import { showError } from '../core/messages.js';
import { isEmpty, startOver, state } from '../core/state.js';
import { searchSimilar } from '../results/actions.js';

const NUM_EXAMPLES = 8;
// Asked of an index without captions; those that find something are shown.
const SENTENCES = [
  'two people are talking', 'a dog in the grass', 'a child is playing', 'people at the sea', 'a mountain with snow',
  'a street in a city', 'a plate of food', 'a building', 'a car', 'a sunset', 'a crowd of people', 'a cat', 'a boat',
  'flowers', 'a bicycle', 'water',
];
let shownVersion = null;

/** Show the start page while the query is empty. */
export async function showStart() {
  byId('start').hidden = !isEmpty(state);
  byId('results').hidden = isEmpty(state);
  if (!isEmpty(state) || shownVersion === state.version) return;
  const { version } = state;
  shownVersion = version;
  try {
    const overview = await getOverview(version);
    if (shownVersion === version) await showOverview(overview, version);
  } catch (error) {
    shownVersion = null;
    replace(byId('counts'));
    showError(error.message, showStart);
  }
}

async function showOverview(overview, version) {
  const count = (kind) => (overview.counts[kind] || 0).toLocaleString('en');
  const captions = overview.counts.caption ? ` and ${count('caption')} captions` : '';
  byId('counts').textContent = `${count('image')} images${captions} are indexed, in version ${overview.version}.`;
  byId('answered-by').textContent = `Index version ${overview.version}.`;
  byId('can-photo').hidden = !overview.accepts_photos;
  byId('can-words').hidden = !overview.has_words || !overview.has_boxes;
  byId('can-regions').hidden = !overview.has_boxes;
  byId('can-weak').hidden = overview.min_probability === null;
  for (const option of byId('target').options) option.disabled = option.value === 'captions' && !overview.counts.caption;
  replace(byId('start-notes'), ...overview.notes.map((text) => h('p', { class: 'soft', text })));
  const needsSentences = overview.examples.length > 0 && overview.examples.every(({ text }) => !text);
  const examples = needsSentences ? await findExamples(overview, version) : overview.examples;
  if (shownVersion === version) replace(byId('examples'), ...examples.map(makeExample));
}

/** Find sentences that fit images which have no captions; images without a sentence fill the rest. */
async function findExamples(overview, version) {
  const queries = SENTENCES.map((text) => ({ parts: [{ text }] }));
  const { answers } = await search({ queries, k: 1, version, explain: false });
  const found = answers.map(({ hits }, number) => ({ hit: hits[0], text: SENTENCES[number] })).filter(({ hit }) => hit);
  const getChance = ({ hit }) => hit.probability ?? hit.score;
  found.sort((a, b) => getChance(b) - getChance(a));
  const ids = new Set();
  const used = found.filter(({ hit }) => !ids.has(hit.image_id) && ids.add(hit.image_id));
  const examples = used.map(({ hit, text }) => ({ image_id: hit.image_id, text }));
  return [...examples, ...overview.examples.filter(({ image_id: id }) => !ids.has(id))].slice(0, NUM_EXAMPLES);
}

function makeExample({ image_id: id, text }) {
  const name = text ? printable(text) : `Images like ${printable(id)}`;
  const open = () => (text ? startOver({ q: text, target: 'images' }) : searchSimilar(id));
  return h('li', { class: 'card' },
    h('button', { type: 'button', class: 'example', on: { click: open } },
      h('span', { class: 'thumbnail' }, makeThumbnail(id, '', state.version)), h('span', { class: 'about', text: name })));
}
