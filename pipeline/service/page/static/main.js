/** The search page: connects its parts. Every change of the search goes through `update` of core/state.js. */

import { byId } from './core/dom.js';
import { onChange, readAddress, state, update } from './core/state.js';
import { listenForTexts, showChips } from './panels/chips.js';
import { listenForFilters, showFilter } from './panels/filters.js';
import { listenForKeys } from './panels/keyboard.js';
import { listenForSettings, loadVersions, showSettings } from './panels/settings.js';
import { showStart } from './panels/start.js';
import { listenForUploads } from './query/uploads.js';
import { listenForLightbox, showOpenImage } from './results/lightbox.js';
import { listenForScrolling, showResults } from './results/list.js';
import { clearMarks, listenForMarks } from './results/marks.js';

const PAUSE_MS = 300; // after the last key, before a search begins
let timer = null;
let isTyping = false; // whether the newest step of the history was typed: more keys replace it

/** Listen for the text of the query: a pause or Enter begins a search. */
function listenForQuery() {
  const input = byId('q');
  const searchNow = () => {
    window.clearTimeout(timer);
    if (input.value.trim() === state.q) return;
    update({ q: input.value.trim(), good: [], bad: [], open: '' }, !isTyping);
    isTyping = true;
  };
  input.addEventListener('input', () => {
    window.clearTimeout(timer);
    timer = window.setTimeout(searchNow, PAUSE_MS);
  });
  byId('search').addEventListener('submit', (event) => {
    event.preventDefault();
    searchNow();
    isTyping = false;
  });
}

/** Show the state; what has not changed is left as it is. */
function show(now, former) {
  const hasChanged = (...names) => former === null || names.some((name) => now[name] !== former[name]);
  const isTyped = former !== null && document.activeElement === byId('q');
  if (hasChanged('q') && !isTyped) byId('q').value = now.q;
  if (hasChanged('parts', 'good', 'bad', 'where', 'target', 'version')) isTyping = false;
  showSettings();
  if (hasChanged('parts', 'good', 'bad', 'version', 'numMissing')) showChips();
  if (hasChanged('where', 'target', 'version')) showFilter();
  if (hasChanged('q', 'parts', 'good', 'bad', 'where', 'target', 'version', 'minProbability')) {
    document.title = now.q ? `${now.q} – Search images` : 'Search images';
    window.scrollTo(0, 0);
    clearMarks();
    showStart();
    showResults().then(showOpenImage);
  } else {
    showOpenImage();
  }
}

listenForQuery();
listenForTexts();
listenForUploads();
listenForFilters();
listenForSettings();
listenForLightbox();
listenForScrolling();
listenForMarks();
listenForKeys();
readAddress();
show(state, null);
onChange(show);
window.addEventListener('popstate', () => {
  byId('q').blur();
  readAddress();
});
loadVersions().catch(() => {}); // the search reports what is wrong
