/** Elements of the page, made without HTML texts: what data files contain is never parsed as HTML. */

const SVG = 'http://www.w3.org/2000/svg';

/**
 * Create an HTML element.
 *
 * @param {string} tag Name of the element.
 * @param {Object} options Attributes by name; `on` has listeners by event, `text` the text; null and false are left out.
 * @param {...(Node|string|null)} children Content; null is left out.
 */
export function h(tag, options = {}, ...children) {
  return fill(document.createElement(tag), options, children);
}

/** Create an SVG element; see `h`. */
export function svg(tag, options = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), options, children);
}

/** Return the element with an id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Replace the content of an element. */
export function replace(element, ...children) {
  element.replaceChildren(...children.filter((child) => child !== null));
}

/** Make characters visible that change how a text is read, such as those for the direction of writing. */
export function printable(text) {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cs}]/gu, (character) =>
    `\\u${character.codePointAt(0).toString(16).padStart(4, '0')}`);
}

function fill(element, options, children) {
  for (const [name, value] of Object.entries(options)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === 'on') for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === 'text') element.textContent = value;
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}
