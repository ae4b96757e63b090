/** The filter: a form made of the columns that the index has, and the filter as a text, which can be edited too. */

import { getColumns } from '../core/api.js';
import { byId, h, replace } from '../core/dom.js';
import { state, update } from '../core/state.js';
import { readFilter, writeFilter } from '../query/filter_text.js';

export const RARE_COLUMNS = ['id', 'image_id', 'content_hash']; // columns that few people filter by
const NAMES = { caption: 'Caption contains', path: 'Path contains', width: 'Width in pixels', height: 'Height in pixels', split: 'Split' };
let columns = [];
let shownFor = null; // target and version of the columns

/** Listen for changes of the form and of the text. */
export function listenForFilters() {
  byId('where-form').addEventListener('submit', (event) => {
    event.preventDefault();
    apply(byId('where').value);
  });
  byId('where').addEventListener('change', () => apply(byId('where').value));
  byId('clear-filter').addEventListener('click', () => apply(''));
  byId('columns').addEventListener('change', () => apply(writeFilter(readForm())));
  byId('columns').addEventListener('submit', (event) => event.preventDefault());
}

/** Show the filter of the state, and the columns of its version. */
export async function showFilter() {
  byId('where').value = state.where;
  byId('clear-filter').hidden = !state.where;
  byId('filter-mark').hidden = !state.where;
  const key = `${state.target} ${state.version}`;
  if (shownFor !== key) {
    shownFor = key;
    try {
      ({ columns } = await getColumns(state.target, state.version));
    } catch {
      columns = []; // the search reports the error; the text still works
    }
    if (shownFor !== key) return;
    replace(byId('columns'), ...sortColumns().map(makeField), makeNote());
  }
  fillForm();
}

function apply(where) {
  if (where.trim() !== state.where) update({ where: where.trim() });
}

function sortColumns() {
  return [...columns].sort((a, b) => RARE_COLUMNS.indexOf(a.name) - RARE_COLUMNS.indexOf(b.name));
}

function makeField(column) {
  const hasRange = column.type === 'number' || column.type === 'date';
  const name = NAMES[column.name] || (!hasRange && !isListed(column) ? `${column.name} contains` : column.name);
  if (hasRange) {
    const makeInput = (side, label) => h('input', {
      type: column.type, step: column.type === 'number' ? 'any' : null, name: column.name, 'data-side': side,
      placeholder: column[side], title: `${column[side]}`, 'aria-label': `${name}, ${label}`,
    });
    return h('fieldset', {}, h('legend', { text: name }),
      h('div', { class: 'row' }, makeInput('minimum', 'at least'), h('span', { text: 'to' }), makeInput('maximum', 'at most')));
  }
  if (isListed(column)) {
    const boxes = column.values.map(({ value, count }) => h('label', { class: 'check' },
      h('input', { type: 'checkbox', name: column.name, value }), ` ${value} `, h('small', { text: count.toLocaleString('en') })));
    return h('fieldset', {}, h('legend', { text: name }), ...boxes);
  }
  const id = `filter-${column.name}`;
  const field = h('div', { class: 'field' }, h('label', { for: id, text: name }), h('input', { id, name: column.name, 'data-side': 'contains' }));
  return RARE_COLUMNS.includes(column.name) ? h('details', {}, h('summary', { text: column.name }), field) : field;
}

/** Return whether the form lists the values of a column: those of a column such as `path` all occur once. */
function isListed(column) {
  return column.values.some(({ count }) => count > 1);
}

function makeNote() {
  return h('p', { class: 'soft', id: 'filter-note', hidden: true, text: 'The filter below says more than these fields can show.' });
}

function readForm() {
  return columns.flatMap(({ name }) => {
    const fields = [...byId('columns').querySelectorAll(`[name="${name}"]`)];
    const values = fields.filter((field) => field.checked).map((field) => field.value);
    if (values.length) return [{ column: name, values }];
    const sides = fields.filter((field) => field.dataset.side && field.value !== '' && field.checkValidity());
    if (!sides.length) return [];
    return [Object.assign({ column: name }, ...sides.map((field) => ({
      [field.dataset.side]: field.type === 'number' ? Number(field.value) : field.value.replaceAll(/[%_]/g, ''),
    })))].filter((condition) => condition.contains !== '');
  });
}

function fillForm() {
  const conditions = readFilter(state.where);
  const note = byId('filter-note');
  if (note) note.hidden = conditions !== null;
  for (const field of byId('columns').querySelectorAll('input')) {
    const condition = (conditions || []).find((one) => one.column === field.name) || {};
    if (field.type === 'checkbox') field.checked = Boolean(condition.values?.includes(field.value));
    else field.value = condition[field.dataset.side] ?? '';
  }
}
