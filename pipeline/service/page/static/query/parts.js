/** Parts of a query, and the query of the API that they make: a weighted sum of unit vectors. */

// As in pipeline/search/query.py; tests/pipeline/service/test_page_files.py compares them.
export const MAX_PARTS = 16;
export const AVOIDED_BESIDE_TEXT = -0.5;
export const AVOIDED_BESIDE_IMAGE = -1;

// Rocchio's formula, with the weights of Manning, Raghavan and Schuetze, Introduction to Information Retrieval,
// section 9.1.1: query + 0.75 * mean of the good hits - 0.15 * mean of the bad hits.
export const GOOD_WEIGHT = 0.75;
export const BAD_WEIGHT = -0.15;

/**
 * Make the query of the API that a search asks.
 *
 * @param {Object} search See core/state.js.
 * @returns {Object} An item of `queries` in `POST /api/v1/search`.
 */
export function makeQuery(search) {
  const parts = search.q.trim() ? [{ text: search.q }] : [];
  parts.push(...search.parts.map(toApiPart));
  for (const id of search.good) parts.push({ image_id: id, weight: GOOD_WEIGHT / search.good.length });
  for (const id of search.bad) parts.push({ image_id: id, weight: BAD_WEIGHT / search.bad.length });
  return { parts, for: search.target };
}

/** Return the weight of something that the results of a search avoid. */
export function getAvoidedWeight(search) {
  return search.q.trim() ? AVOIDED_BESIDE_TEXT : AVOIDED_BESIDE_IMAGE;
}

/** Return how many parts a query can still have. */
export function countFreeParts(search) {
  return MAX_PARTS - makeQuery(search).parts.length;
}

/** Return whether a search is one text, so that hits can have words. */
export function isSingleText(search) {
  return Boolean(search.q.trim()) && !search.parts.length && !search.good.length && !search.bad.length;
}

/** Describe a part in a few words. */
export function describePart(part) {
  const area = part.box ? `area ${part.box.map(Math.round).join(', ')} of ` : '';
  return part.kind === 'text' ? part.text : area + (part.kind === 'image' ? part.image_id : part.name);
}

function toApiPart({ kind, text, image_id: id, photo, vector, box, weight }) {
  const content = { text: { text }, image: { image_id: id }, photo: { photo }, vector: { vector } }[kind];
  return { ...content, ...(box ? { box } : {}), weight };
}
