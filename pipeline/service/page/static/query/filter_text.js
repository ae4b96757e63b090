/** Filters as texts, as docs/reference/filters.md describes them: written by the form, and read back where possible. */

/**
 * Write a filter of conditions that must all hold.
 *
 * @param {Object[]} conditions Each has `column` and one of: `values` (one of several texts), `contains` (part of a
 *     text), `minimum`, `maximum` (of a number, or of a date as a text).
 */
export function writeFilter(conditions) {
  return conditions.flatMap(writeCondition).join(' and ');
}

function writeCondition({ column, values, contains, minimum, maximum }) {
  if (values) return values.length === 1 ? [`${column} = ${quote(values[0])}`] : [`${column} in (${values.map(quote).join(', ')})`];
  if (contains) return [`${column} like ${quote(`%${contains}%`)}`];
  return [
    ...(minimum === undefined ? [] : [`${column} >= ${writeBound(minimum)}`]),
    ...(maximum === undefined ? [] : [`${column} <= ${writeBound(maximum)}`]),
  ];
}

function writeBound(value) {
  return typeof value === 'number' ? String(value) : quote(value);
}

/**
 * Read a filter that `writeFilter` could have written.
 *
 * @returns {Object[]|null} Its conditions; null for another filter.
 */
export function readFilter(text) {
  const conditions = [];
  let rest = text.trim();
  while (rest) {
    const match = rest.match(CONDITION);
    if (!match) return null;
    const condition = readCondition(match.groups);
    const former = conditions.find((one) => one.column === condition.column);
    if (former && (former.values || former.contains || condition.values || condition.contains)) return null;
    if (former) Object.assign(former, condition);
    else conditions.push(condition);
    rest = rest.slice(match[0].length);
  }
  return conditions;
}

const BOUND = "-?\\d+(?:\\.\\d+)?|'\\d{4}-\\d\\d-\\d\\d'";
const TEXT = "'(?:[^']|'')*'";
const CONDITION = new RegExp(
  `^(?<column>\\w+) (?:= (?<value>${TEXT})|in \\((?<values>${TEXT}(?:, ${TEXT})*)\\)|like '%(?<part>(?:[^'%_]|'')+)%'`
  + `|>= (?<minimum>${BOUND})|<= (?<maximum>${BOUND}))(?: and (?=\\w)|$)`,
);

function readCondition({ column, value, values, part, minimum, maximum }) {
  if (value) return { column, values: [unquote(value)] };
  if (values) return { column, values: values.match(new RegExp(TEXT, 'g')).map(unquote) };
  if (part) return { column, contains: part.replaceAll("''", "'") };
  return { column, ...(minimum ? { minimum: readBound(minimum) } : {}), ...(maximum ? { maximum: readBound(maximum) } : {}) };
}

function readBound(text) {
  return text.startsWith("'") ? unquote(text) : Number(text);
}

function quote(text) {
  return `'${text.replaceAll("'", "''")}'`;
}

function unquote(text) {
  return text.slice(1, -1).replaceAll("''", "'");
}
