/** The list of results: searches when the query changes, and loads more as one scrolls. */

import { search } from '../core/api.js';
import { byId, replace } from '../core/dom.js';
import { showError, showNotes, showStatus } from '../core/messages.js';
import { isEmpty, state } from '../core/state.js';
import { makeQuery } from '../query/parts.js';
import { makeCard, makeEmptyCards } from './card.js';

const PAGE_SIZE = 24;
const MAX_OFFSET = 1000; // of the API
const KEPT_MS = 400; // for which the hits of the query before stay while a search runs
const NUM_PLACEHOLDERS = 12;
const hits = []; // all that are shown, good ones first
let offset = 0;
let controller = new AbortController(); // of the request that runs
let placeholderTimer = 0; // after which gray cards replace the hits of the query before
let isLoading = false;
let isComplete = true;

/** Return the hits that are shown, in their order. */
export function getHits() {
  return hits;
}

/** Load more hits when the end of the list comes near the screen. */
export function listenForScrolling() {
  const observer = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) loadMore();
  }, { rootMargin: '800px' });
  observer.observe(byId('end'));
  byId('more-weak').addEventListener('click', () => loadMore(true));
}

/** Answer the query of the state from its first hit on. */
export async function showResults() {
  controller.abort();
  controller = new AbortController();
  window.clearTimeout(placeholderTimer);
  isLoading = false;
  hits.length = 0;
  offset = 0;
  isComplete = isEmpty(state);
  showNotes([]);
  byId('weak').hidden = true;
  replace(byId('weak-hits'));
  if (isComplete) {
    replace(byId('hits'));
    showStatus('');
    return;
  }
  showStatus('Searching …');
  const pause = byId('hits').children.length ? KEPT_MS : 0;
  placeholderTimer = window.setTimeout(() => replace(byId('hits'), ...makeEmptyCards(NUM_PLACEHOLDERS)), pause);
  await loadMore(true);
}

/**
 * Load the next hits. Weak ones are not loaded by scrolling alone.
 *
 * @param {boolean} wantsWeak Whether to load more although the last hits were weak.
 */
async function loadMore(wantsWeak = false) {
  if (isLoading || isComplete || (!wantsWeak && !byId('weak').hidden)) return;
  isLoading = true;
  const { signal } = controller;
  byId('results').setAttribute('aria-busy', 'true');
  try {
    const answer = (await search(makeBody(), signal)).answers[0];
    removePlaceholders();
    showAnswer(answer);
  } catch (error) {
    if (error.name === 'AbortError' || signal.aborted) return; // another search has begun
    removePlaceholders();
    isComplete = true;
    showStatus('');
    showError(error.message, () => (offset === 0 ? showResults() : retry()));
  } finally {
    if (!signal.aborted) {
      isLoading = false;
      byId('results').setAttribute('aria-busy', 'false');
      byId('loading').hidden = true;
    }
  }
  continueIfVisible();
}

function removePlaceholders() {
  window.clearTimeout(placeholderTimer);
  if (offset === 0) replace(byId('hits'));
}

function retry() {
  isComplete = false;
  replace(byId('error'));
  loadMore(true);
}

/** Load more if the end of the list is still near the screen: the observer only reports changes. */
function continueIfVisible() {
  if (byId('end').getBoundingClientRect().top < window.innerHeight + 800) loadMore();
}

function makeBody() {
  const probability = state.minProbability === '' ? null : Number(state.minProbability);
  byId('loading').hidden = offset === 0;
  return {
    queries: [makeQuery(state)],
    k: PAGE_SIZE,
    offset,
    where: state.where,
    version: state.version,
    ...(probability === null ? {} : { min_probability: probability }),
  };
}

function showAnswer(answer) {
  const count = answer.hits.length + answer.weak.length;
  let rank = offset;
  for (const [found, list] of [[answer.hits, 'hits'], [answer.weak, 'weak-hits']]) {
    byId(list).append(...found.map((hit) => {
      rank += 1;
      hits.push(hit);
      return makeCard(hit, rank);
    }));
  }
  const isFirst = offset === 0;
  offset += count;
  isComplete = count < PAGE_SIZE || offset > MAX_OFFSET;
  if (answer.weak.length) byId('weak').hidden = false;
  byId('more-weak').hidden = isComplete;
  if (isFirst) showNotes([answer.note]);
  showStatus(describe(answer.hits.length, isFirst));
}

function describe(numGood, isFirst) {
  const kind = state.target === 'captions' ? 'captions' : 'images';
  if (!hits.length) return state.where ? `No ${kind} match the filter.` : `There are no ${kind} to show.`;
  if (isFirst && !numGood) return 'Nothing matches well. The best hits are weak.';
  const shown = byId('hits').children.length;
  const end = isComplete ? (offset > MAX_OFFSET ? ' The list ends here: describe more exactly what you look for.' : ' These are all.') : '';
  return `${shown.toLocaleString('en')} ${kind} are shown, best first.${end}`;
}
