"use strict";

const ROWS_AT_FIRST = 10;

/** An element with properties, and children that are nodes or plain text, never markup. */
function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** Text of others with nothing in it that is invisible or turns the line around. */
function printable(text) {
  const escape = (c) => `\\u{${c.codePointAt(0).toString(16)}}`;
  return text.replace(/[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu, escape);
}

/** A table of columns ({name, number, token}) and rows of cells, which are text or nodes. */
function plainTable(columns, rows, caption) {
  const head = columns.map((column) =>
    element("th", { className: cellClass(column), scope: "col" }, column.name),
  );
  const line = (cells) =>
    element(
      "tr",
      {},
      ...cells.map((cell, i) =>
        element("td", { className: cellClass(columns[i]) }, isolated(cell)),
      ),
    );
  const table = element("table", {}, element("caption", { className: "unseen" }, caption));
  table.append(
    element("thead", {}, element("tr", {}, ...head)),
    element("tbody", {}, ...rows.map(line)),
  );
  return table;
}

function isolated(cell) {
  return typeof cell === "string" ? element("bdi", { dir: "ltr" }, cell) : cell;
}

/** Who is mapped onto whom, how, and which text weighs. */
function showHeader(audit, strategy) {
  const { src, dst } = audit.map;
  const names = [src, dst].map(({ name }) => printable(name));
  document
    .getElementById("title")
    .append(
      element("bdi", {}, names[0]),
      element("span", { className: "arrow", ariaLabel: "onto", role: "img" }, "→"),
      element("bdi", {}, names[1]),
    );
  const about = [
    `${count(src.size)} tokens onto ${count(dst.size)}`,
    printable(strategy),
    `mean distance ${audit.map.mean_distance.toFixed(4)}`,
  ];
  if (audit.map.overrides_sha256) about.push("with overrides by hand");
  const lines = [about.join(" · "), textLine(audit.text)];
  if (audit.choices.form !== "one") lines.push(choicesLine(audit.choices));
  const separated = lines.flatMap((line) => [element("br"), line]).slice(1);
  document.getElementById("about").append(...separated);
}

function choicesLine({ form, several, max, mean }) {
  const shares = `${counted(several.tokens, "tokens")} map to several, up to ${count(max)}`;
  return `A ${form} map: ${shares}; ${mean.toFixed(2)} on average. All figures are of the first.`;
}

function textLine(text) {
  if (!text) return "Every token counts once: no text weighs them.";
  const figures = [
    counted(text.documents, "documents"),
    counted(text.tokens, "tokens"),
    counted(text.characters, "characters"),
  ];
  if (text.unverified_cuts)
    figures.push(`${count(text.unverified_cuts)} cuts that may split a token`);
  return element(
    "bdi",
    {},
    `Weighted by ${text.files.map(printable).join(", ")}: ${figures.join(", ")}.`,
  );
}

function showMatches(audit, near) {
  const meanings = {
    exact: "distance 0",
    near: near === 1 ? "distance 1" : `distance 1 to ${near}`,
    far: `distance ${near + 1} or more`,
    unmapped: "maps to no token",
  };
  const tiles = audit.matches.map((group) => tile(audit, group, meanings[group.name]));
  document.getElementById("matches").append(...tiles);
}

/** A match in big figures; of the text first, if there is one. */
function tile(audit, group, meaning) {
  const [first, ...others] = measures(audit);
  return element(
    "a",
    { className: "tile", href: hashOf({ match: group.name }) },
    element("span", { className: `mark ${group.name}` }, group.name),
    element("span", { className: "meaning" }, meaning),
    element("strong", {}, percent(group[first.share])),
    element(
      "span",
      { className: "figures" },
      `${first.name}, ${counted(group[first.amount], first.amount)}`,
    ),
    ...others.map(({ amount, share }) =>
      element(
        "span",
        { className: "figures" },
        `${counted(group[amount], amount)}, ${percent(group[share])}`,
      ),
    ),
  );
}

/** The charts, drawn anew whenever their width changes, each with its figures as a table. */
function showCharts(audit) {
  const charts = chartsOf(audit);
  for (const { id, title, about, groups, draw } of charts) {
    const chart = element("div", { className: "chart", id: `chart-${id}` });
    const section = element(
      "section",
      { id },
      element("h2", {}, title),
      element("p", {}, about),
      chart,
    );
    section.append(figuresTable(audit, groups, title, id));
    document.getElementById("charts").append(section);
    drawInto(chart, draw, `${title}; the figures are in the table below`);
  }
}

function drawInto(place, draw, label) {
  let drawn = 0;
  const redraw = () => {
    const width = Math.floor(place.clientWidth);
    if (!width || width === drawn) return;
    drawn = width;
    const figure = draw(width);
    figure.setAttribute("role", "img");
    figure.setAttribute("aria-label", label);
    // The same links stand in the table below, where a keyboard reaches them one by one.
    for (const link of figure.querySelectorAll("a")) link.setAttribute("tabindex", "-1");
    place.replaceChildren(figure);
  };
  redraw();
  new ResizeObserver(redraw).observe(place);
}

function figuresTable(audit, groups, title, id) {
  const filter = { rules: "rule", kinds: "kind", scripts: "script" }[id];
  const columns = [{ name: title.replace("By ", "") }];
  for (const { amount } of measures(audit))
    columns.push({ name: amount, number: true }, { name: "share", number: true });
  columns.push(...MATCHES.map((name) => ({ name, number: true })));
  const rows = groups.map((group) => [
    filter ? element("a", { href: hashOf({ [filter]: group.name }) }, group.name) : group.name,
    ...measures(audit).flatMap(({ amount, share }) => [
      count(group[amount]),
      percent(group[share]),
    ]),
    ...MATCHES.map((match) => count(group.by_match[match].tokens)),
  ]);
  const table = element(
    "div",
    { className: "scroll", tabIndex: 0, role: "region", ariaLabel: title },
    plainTable(columns, rows, title),
  );
  return element("details", {}, element("summary", {}, "Figures"), table);
}

function showLists(audit, tokens) {
  const place = document.getElementById("lists");
  const lists = listsOf(audit, tokens).filter(({ rows }) => rows.length);
  place.className = lists.length === 3 ? "thirds" : "pairs";
  for (const { title, about, columns, rows } of lists) {
    const table = plainTable(columns, rows.slice(0, ROWS_AT_FIRST), title);
    const section = element(
      "section",
      {},
      element("h2", {}, title),
      element("p", {}, about),
      table,
    );
    if (rows.length > ROWS_AT_FIRST) section.append(moreButton(table, columns, rows, title));
    place.append(section);
  }
}

function moreButton(table, columns, rows, title) {
  const button = element("button", { type: "button" }, `Show all ${rows.length}`);
  button.addEventListener("click", () => {
    table.replaceWith(plainTable(columns, rows, title));
    button.remove();
  });
  return button;
}

/** The lists of an audit, in the tokens' displayed form. */
function listsOf(audit, tokens) {
  const token = (row) => tokenLink(tokens.token[row], row);
  const id = { name: "id", number: true };
  const [source, destination] = [
    { name: "token", token: true },
    { name: "maps to", token: true },
  ];
  const weighted = audit.text ? [{ name: "uses", number: true }] : [];
  const uses = (entry) => (audit.text ? [count(entry.uses)] : []);
  return [
    {
      title: "Costliest in the text",
      about: "The highest costs: distance, or length where unmapped, times uses.",
      columns: [source, destination, { name: "uses", number: true }, { name: "cost", number: true }],
      rows: (audit.costliest ?? []).map((row) => [
        token(row.src_id),
        tokens.dstToken[row.src_id],
        count(row.uses),
        count(row.cost),
      ]),
    },
    {
      title: "Most mapped to",
      about: "Destination tokens to which the most source tokens map.",
      columns: [
        { name: "token", token: true },
        { name: "source tokens", number: true },
        ...weighted,
        { name: "such as", token: true },
      ],
      rows: audit.most_read.map((entry) => [
        tokens.dstToken[entry.examples[0]],
        count(entry.readers),
        ...uses(entry),
        element("span", {}, ...entry.examples.flatMap((row) => [token(row), " "])),
      ]),
    },
    {
      title: "Most distant",
      about: "Mapped, but to a token far away.",
      columns: [source, destination, { name: "distance", number: true }, ...weighted],
      rows: audit.most_distant.map((row) => [
        token(row.src_id),
        tokens.dstToken[row.src_id],
        count(row.distance),
        ...uses(row),
      ]),
    },
    {
      title: "Unmapped",
      about: audit.text ? "Tokens of the text that map to nothing." : "Tokens that map to nothing.",
      columns: [source, id, { name: "kind" }, { name: "script" }, ...weighted],
      rows: audit.unmapped.map((row) => [
        token(row.src_id),
        String(row.src_id),
        row.src_kind,
        row.script,
        ...uses(row),
      ]),
    },
  ];
}

function tokenLink(text, row) {
  return element(
    "a",
    { href: hashOf({ q: String(row) }), title: `id ${row}` },
    element("bdi", { dir: "ltr" }, text),
  );
}

/** Where both vocabularies come from, and what identifies them. */
function showSources({ map }) {
  const lines = [map.src, map.dst].map(({ name, source, fingerprint }) => {
    const where = element("bdi", {}, `${printable(name)}: ${printable(source)}, fingerprint `);
    return element("p", {}, where, element("code", {}, fingerprint));
  });
  document.getElementById("footer").append(...lines);
}

/** A button for who wants the other look than the system's. */
function startThemeButton() {
  const button = document.getElementById("theme");
  let dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const label = () => (button.textContent = dark ? "Light" : "Dark");
  button.addEventListener("click", () => {
    dark = !dark;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    label();
  });
  label();
}

function main() {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const audit = read("audit");
  const columns = read("columns");
  const tokens = new Tokens(columns, audit.map.src.size);
  startThemeButton();
  showHeader(audit, columns.strategy);
  showMatches(audit, columns.near);
  showCharts(audit);
  showLists(audit, tokens);
  showSources(audit);
  new TokenTable(tokens, audit);
}

main();
