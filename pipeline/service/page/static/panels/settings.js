/** What is searched (images or captions), in which version, from which chance on hits are good; and the colors. */

import { getVersions } from '../core/api.js';
import { byId, h, replace } from '../core/dom.js';
import { state, update } from '../core/state.js';

const KEY = 'tern-theme';
const THEMES = ['auto', 'light', 'dark'];

/** Listen for changes of the settings. */
export function listenForSettings() {
  byId('target').addEventListener('change', ({ target }) => update({ target: target.value, open: '' }));
  byId('version').addEventListener('change', ({ target }) => update({ version: target.value, open: '' }));
  byId('min-probability').addEventListener('change', ({ target }) => {
    if (target.checkValidity()) update({ minProbability: target.value === '' ? '' : String(Number(target.value) / 100) });
  });
  byId('theme').addEventListener('click', () => {
    const theme = THEMES[(THEMES.indexOf(getTheme()) + 1) % THEMES.length];
    localStorage.setItem(KEY, theme);
    showTheme();
  });
  showTheme();
}

/** Show the settings of the state. */
export function showSettings() {
  byId('target').value = state.target;
  byId('min-probability').value = state.minProbability === '' ? '' : String(Math.round(1e4 * state.minProbability) / 100);
  selectVersion();
}

/** Fill the list of versions, with their tags. */
export async function loadVersions() {
  const { versions } = await getVersions();
  const options = versions.filter((one) => !one.is_rejected).reverse().flatMap((one) => [
    h('option', { value: one.version, text: `Version ${one.version}${one.is_served ? ' (published)' : ''}` }),
    ...one.tags.map((tag) => h('option', { value: tag, text: `${tag} (version ${one.version})` })),
  ]);
  replace(byId('version'), h('option', { value: '', text: 'Published version' }), ...options);
  selectVersion();
}

function selectVersion() {
  const select = byId('version');
  if (![...select.options].some((option) => option.value === state.version)) {
    select.append(h('option', { value: state.version, text: state.version })); // of an address; the search says if it is wrong
  }
  select.value = state.version;
}

function getTheme() {
  const theme = localStorage.getItem(KEY);
  return THEMES.includes(theme) ? theme : 'auto';
}

function showTheme() {
  const theme = getTheme();
  document.documentElement.dataset.theme = theme;
  byId('theme').textContent = { auto: '◐', light: '☀', dark: '☾' }[theme];
  byId('theme').setAttribute('aria-label', `Colors: ${theme === 'auto' ? 'those of the system' : theme}. Change them`);
  byId('theme').title = byId('theme').getAttribute('aria-label');
}
