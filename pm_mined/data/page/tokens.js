"use strict";

/** Every source token, as columns; row i is source id i. No DOM here. */
class Tokens {
  constructor(document, size) {
    const numbers = (Type, text) =>
      new Type(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
    const codes = ({ names, codes }) => ({ names, codes: numbers(Int16Array, codes) });
    // No token at all and one empty token are the same text: the size tells.
    const lines = (text) => text.split("\n").slice(0, size);
    this.size = size;
    this.token = lines(document.token);
    this.dstToken = lines(document.dst_token);
    this.dstId = numbers(Int32Array, document.dst_id);
    this.distance = numbers(Int32Array, document.distance);
    this.uses = document.uses && numbers(Float64Array, document.uses);
    this.groups = {
      match: codes(document.match),
      rule: codes(document.rule),
      kind: codes(document.kind),
      script: codes(document.script),
    };
    this.keys = new Map();
  }

  /** The content of a cell; empty for an unmapped token's match. */
  text(column, row) {
    if (column === "id") return String(row);
    if (column === "token") return this.token[row];
    if (column in this.groups) return this.groups[column].names[this.groups[column].codes[row]];
    if (column === "uses") return String(this.uses[row]);
    if (this.dstId[row] < 0) return "";
    if (column === "distance") return String(this.distance[row]);
    return column === "dst_id" ? String(this.dstId[row]) : this.dstToken[row];
  }

  /** The rows that fit `query` and `filters` (group -> name), in order of a column. */
  select({ query, filters, sort, descending }) {
    const tests = Object.entries(filters).map(([group, name]) => this.#inGroup(group, name));
    if (query) tests.push(this.#found(query));
    const order = this.#order(sort, descending);
    return tests.length ? order.filter((row) => tests.every((test) => test(row))) : order;
  }

  #inGroup(group, name) {
    const { names, codes } = this.groups[group];
    const code = names.indexOf(name);
    return (row) => codes[row] === code;
  }

  /** Capital letters in a query ask for just those; a number is also an id. */
  #found(query) {
    const shown = query.replaceAll(" ", "␣");
    const exact = shown !== shown.toLowerCase();
    const [token, dstToken] = exact ? [this.token, this.dstToken] : this.#lower();
    const id = /^\d{1,9}$/.test(query) ? Number(query) : NaN;
    const isId = (row) => row === id || this.dstId[row] === id;
    return (row) => token[row].includes(shown) || dstToken[row].includes(shown) || isId(row);
  }

  #lower() {
    this.lower ??= [this.token, this.dstToken].map((tokens) => tokens.map((t) => t.toLowerCase()));
    return this.lower;
  }

  /** All rows in order of a column; equal ones by id, and those without a value last. */
  #order(column, descending) {
    const name = `${column} ${descending}`;
    if (this.order?.name !== name) {
      const key = this.#key(column).map((value) =>
        isNaN(value) ? Infinity : descending ? -value : value,
      );
      const rows = Uint32Array.from({ length: this.size }, (_, row) => row);
      this.order = { name, rows: rows.sort((a, b) => key[a] - key[b] || a - b) };
    }
    return this.order.rows;
  }

  /** Numbers in the order of a column's values, NaN where there is no value. */
  #key(column) {
    if (!this.keys.has(column)) this.keys.set(column, this.#makeKey(column));
    return this.keys.get(column);
  }

  #makeKey(column) {
    const key = new Float64Array(this.size);
    const mapped = (value) => key.map((_, row) => (this.dstId[row] < 0 ? NaN : value(row)));
    if (column === "id") return key.map((_, row) => row);
    if (column === "token") return ranks(this.token);
    if (column === "uses") return this.uses;
    if (column === "distance") return mapped((row) => this.distance[row]);
    if (column === "dst_id") return mapped((row) => this.dstId[row]);
    if (column === "dst_token") {
      const rank = ranks(this.dstToken);
      return mapped((row) => rank[row]);
    }
    const { names, codes } = this.groups[column];
    const rank = column === "script" ? ranks(names) : names.map((_, code) => code);
    return key.map((_, row) => rank[codes[row]]);
  }
}

/** For each text its place among the different texts, in order of code units. */
function ranks(texts) {
  const distinct = [...new Set(texts)].sort();
  const rank = new Map(distinct.map((text, place) => [text, place]));
  return Float64Array.from(texts, (text) => rank.get(text));
}
