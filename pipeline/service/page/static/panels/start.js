/** The start page: what is indexed, what it can be asked, and examples with pictures. */

import { getOverview } from '../core/api.js';
import { byId, h, printable, replace } from '../core/dom.js';
import { makeThumbnail } from '../core/images.js';
import { showError } from '../core/messages.js';
import { isEmpty, startOver, state } from '../core/state.js';
import { searchSimilar } from '../results/actions.js';
import { RARE_COLUMNS } from './filters.js';

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
    if (shownVersion === version) showOverview(overview, version);
  } catch (error) {
    shownVersion = null;
    replace(byId('counts'));
    showError(error.message, showStart);
  }
}

function showOverview(overview, version) {
  byId('counts').textContent = describeCounts(overview);
  byId('made-of').textContent = describeVersion(overview);
  byId('answered-by').textContent = `Index version ${overview.version}.`;
  byId('can-photo').hidden = !overview.accepts_photos;
  const columns = overview.columns.filter((name) => !RARE_COLUMNS.includes(name));
  byId('can-filter').hidden = !columns.length;
  byId('filter-columns').textContent = columns.join(', ');
  byId('can-words').hidden = !overview.has_words || !overview.has_boxes;
  byId('can-shares').hidden = !overview.has_words;
  byId('can-regions').hidden = !overview.has_boxes;
  byId('can-weak').hidden = overview.min_probability === null;
  for (const option of byId('target').options) option.disabled = option.value === 'captions' && !overview.counts.caption;
  replace(byId('start-notes'), ...overview.notes.map((text) => h('p', { class: 'soft', text })));
  byId('examples-title').hidden = !overview.examples.length;
  replace(byId('examples'), ...overview.examples.map((example) => makeExample(example, version)));
}

function describeCounts({ counts }) {
  const count = (kind) => `${(counts[kind] || 0).toLocaleString('en')} ${kind}${counts[kind] === 1 ? '' : 's'}`;
  if (!counts.image && !counts.caption) return 'Nothing is indexed: the index is empty.';
  return `${[count('image'), counts.caption ? count('caption') : ''].filter(Boolean).join(' and ')} are indexed.`;
}

function describeVersion({ version, published, model }) {
  const time = published ? `, published on ${published.slice(0, 16).replace('T', ' at ')} UTC` : '';
  return `Version ${version} of the index${time}${model ? `; model ${printable(model)}` : ''}.`;
}

function makeExample({ image_id: id, text }, version) {
  const name = text ? printable(text) : `Images like ${printable(id)}`;
  const open = () => (text ? startOver({ q: text, target: 'images' }) : searchSimilar(id));
  return h('li', { class: 'card' },
    h('button', { type: 'button', class: 'example', on: { click: open } },
      h('span', { class: 'thumbnail' }, makeThumbnail(id, '', version)), h('span', { class: 'about', text: name })));
}
