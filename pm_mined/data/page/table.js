"use strict";

/** The columns that can be filtered by -> where the audit counts them. */
const FILTERS = { match: "matches", rule: "rules", kind: "kinds", script: "scripts" };
const PRINTED_ROWS = 50;

const COLUMNS = [
  { id: "id", name: "id", width: 76, number: true },
  { id: "token", name: "token", width: 220, token: true },
  { id: "dst_token", name: "destination token", width: 220, token: true },
  { id: "distance", name: "distance", width: 104, number: true },
  { id: "match", name: "match", width: 116 },
  { id: "rule", name: "rule", width: 92 },
  { id: "dst_id", name: "dst id", width: 84, number: true },
  { id: "kind", name: "kind", width: 88 },
  { id: "script", name: "script", width: 110 },
  { id: "uses", name: "uses", width: 84, number: true },
];

/** The table's state in the address: "#q=hello&rule=prefix&sort=-distance". */
function hashOf(state) {
  const set = Object.entries(state).filter(([, value]) => value);
  return `#${new URLSearchParams(set)}`;
}

function cellText(tokens, column, row) {
  const text = tokens.text(column.id, row);
  return column.id === "uses" ? count(Number(text)) : text;
}

function cellClass(column) {
  return column.token ? "token" : column.number ? "number" : "";
}

/** The table of all tokens, its filters and its sort order; all of it follows the address. */
class TokenTable {
  constructor(tokens, audit) {
    this.tokens = tokens;
    this.columns = COLUMNS.filter(({ id }) => id !== "uses" || tokens.uses);
    this.form = document.getElementById("filters");
    for (const [group, figures] of Object.entries(FILTERS)) this.#fillFilter(group, audit[figures]);
    this.grid = this.#makeGrid();
    this.#listen();
    this.show();
  }

  /** Show the rows that the address asks for. */
  show() {
    const asked = new URLSearchParams(location.hash.slice(1));
    const sort = (asked.get("sort") ?? "").replace(/^-/, "");
    this.form.search.value = asked.get("q") ?? "";
    for (const group in FILTERS) this.form[group].value = this.#known(group, asked.get(group));
    this.sort = this.columns.some(({ id }) => id === sort) ? sort : "id";
    this.descending = this.sort === sort && asked.get("sort").startsWith("-");
    this.grid.setSortColumn(this.sort, !this.descending);
    this.#update();
  }

  #known(group, name) {
    return [...this.form[group].options].some(({ value }) => value === name) ? name : "";
  }

  /** Group -> name, of the filters that are set. */
  #chosen() {
    const all = Object.keys(FILTERS).map((group) => [group, this.form[group].value]);
    return Object.fromEntries(all.filter(([, name]) => name));
  }

  #update() {
    const { sort, descending } = this;
    const query = this.form.search.value;
    this.rows = this.tokens.select({ query, filters: this.#chosen(), sort, descending });
    document.getElementById("count").textContent =
      `${count(this.rows.length)} of ${count(this.tokens.size)} tokens`;
    document.getElementById("printed").replaceChildren(this.#printed());
    this.grid.resetActiveCell();
    this.grid.invalidate();
    this.grid.scrollRowToTop(0);
    document.getElementById("grid").setAttribute("aria-rowcount", this.rows.length + 1);
    this.#markSorted();
  }

  /** Put the state into the address without a new entry in the history, and show it. */
  #changed() {
    const sort = (this.descending ? "-" : "") + this.sort;
    const state = { q: this.form.search.value, ...this.#chosen(), sort: sort === "id" ? "" : sort };
    history.replaceState(null, "", hashOf(state));
    this.#update();
  }

  #fillFilter(group, figures) {
    const options = figures
      .filter(({ tokens }) => tokens)
      .map(({ name, tokens }) => new Option(`${name} (${count(tokens)})`, name));
    this.form[group].append(new Option("all", ""), ...options);
  }

  #makeGrid() {
    const provider = {
      getLength: () => this.rows?.length ?? 0,
      getItem: (place) => ({ row: this.rows[place] }),
      getItemMetadata: () => null,
    };
    const columns = this.columns.map((column) => ({
      ...column,
      minWidth: column.token ? 120 : column.width, // tokens give way first
      sortable: true,
      cssClass: cellClass(column),
      headerCssClass: cellClass(column),
      formatter: (_place, _cell, _value, _column, item) => this.#cell(column, item.row),
    }));
    return new Slick.Grid("#grid", provider, columns, {
      enableHtmlRendering: false,
      enableColumnReorder: false,
      forceFitColumns: document.getElementById("grid").clientWidth > 1000,
      rowHeight: 28,
    });
  }

  #cell(column, row) {
    const text = cellText(this.tokens, column, row);
    if (column.id === "match") return element("span", { className: `mark ${text}` }, text);
    return column.token ? element("bdi", { dir: "ltr", title: text.slice(0, 200) }, text) : text;
  }

  #listen() {
    this.form.addEventListener("input", () => this.#changed());
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("reset", () => setTimeout(() => this.#changed()));
    this.grid.onSort.subscribe((_event, { sortCol, sortAsc }) => {
      this.sort = sortCol.id;
      this.descending = !sortAsc;
      this.#changed();
    });
    document.getElementById("download").addEventListener("click", () => this.#download());
    addEventListener("hashchange", () => {
      if (location.hash.includes("=")) {
        this.show();
        document.getElementById("tokens").scrollIntoView();
      }
    });
    addEventListener("resize", () => this.grid.resizeCanvas());
    this.#listenToKeys();
  }

  /** One tab stop for the head of each column and one for the rows; Tab leads on, not through all cells. */
  #listenToKeys() {
    const container = document.getElementById("grid");
    for (const part of container.querySelectorAll("[tabindex]")) part.tabIndex = -1;
    const viewport = container.querySelector(".slick-viewport");
    viewport.tabIndex = 0;
    viewport.setAttribute("aria-label", "Rows; move with the arrow keys");
    viewport.addEventListener("focus", () => {
      if (this.rows.length) this.grid.setActiveCell(this.grid.getViewport().top, 1);
    });
    // A screen reader follows the focus, which the grid itself leaves elsewhere.
    this.grid.onActiveCellChanged.subscribe(() =>
      this.grid.getActiveCellNode()?.focus({ preventScroll: true }),
    );
    // While a cell has the focus, its viewport must not catch a Shift+Tab.
    container.addEventListener("focusin", ({ target }) => {
      viewport.tabIndex = target.closest(".slick-header") ? 0 : -1;
    });
    container.addEventListener("focusout", ({ relatedTarget }) => {
      if (!container.contains(relatedTarget)) viewport.tabIndex = 0;
    });
    const keepTab = (event) => event.key === "Tab" && event.stopPropagation();
    container.addEventListener("keydown", keepTab, { capture: true });
    for (const head of container.querySelectorAll(".slick-header-column")) {
      head.tabIndex = 0;
      head.setAttribute("role", "columnheader");
      head.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        head.click();
      });
    }
  }

  #markSorted() {
    this.columns.forEach(({ id }) => {
      const sorted = id === this.sort ? (this.descending ? "descending" : "ascending") : "none";
      this.grid.getHeaderColumn(id).setAttribute("aria-sort", sorted);
    });
  }

  /** The first rows as a plain table, which is what is printed. */
  #printed() {
    const shown = [...this.rows.subarray(0, PRINTED_ROWS)];
    const body = shown.map((row) =>
      this.columns.map((column) => cellText(this.tokens, column, row)),
    );
    return plainTable(this.columns, body, "tokens");
  }

  #download() {
    const quote = (text) =>
      `"${(/^[=+\-@]/.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;
    const line = (row) => this.columns.map(({ id }) => quote(this.tokens.text(id, row))).join(",");
    const lines = [this.columns.map(({ id }) => id).join(","), ...Array.from(this.rows, line)];
    const url = URL.createObjectURL(new Blob([lines.join("\r\n"), "\r\n"], { type: "text/csv" }));
    element("a", { href: url, download: "tokens.csv" }).click();
    URL.revokeObjectURL(url);
  }
}
