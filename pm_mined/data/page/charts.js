"use strict";

const MATCHES = ["exact", "near", "far", "unmapped"];
const COLORS = MATCHES.map((match) => `var(--${match})`);
const SCRIPTS_DRAWN = 14;
const DISTANCES_DRAWN = 20;

const count = new Intl.NumberFormat("en").format;
/** "1 use", "1,234 uses": the noun is given in the plural. */
const counted = (number, nouns) => `${count(number)} ${number === 1 ? nouns.slice(0, -1) : nouns}`;
const percentOf = new Intl.NumberFormat("en", {
  style: "percent",
  minimumFractionDigits: 2,
  maximumFractionDigits: 2,
}).format;
const percent = (share) => (share > 0 && share < 0.00005 ? "<0.01%" : percentOf(share));

/** The measures of bars: tokens of the vocabulary, and with a text their uses in it. */
function measures(audit) {
  const vocabulary = { name: "of the vocabulary", amount: "tokens", share: "share" };
  const text = { name: "of the text", amount: "uses", share: "use_share" };
  return audit.text ? [text, vocabulary] : [vocabulary];
}

/** A group's figures, one entry per measure and match that occurs. */
function parts(audit, groups, label) {
  return groups.flatMap((group) =>
    measures(audit).flatMap((measure) =>
      MATCHES.filter((match) => group.by_match[match].tokens).map((match) => {
        const figure = group.by_match[match];
        const [amount, share] = [figure[measure.amount], figure[measure.share]];
        const title = `${label(group)}, ${match}\n${counted(amount, measure.amount)}, ${percent(share)} ${measure.name}`;
        return { group: label(group), measure: measure.name, match, amount, share, title };
      }),
    ),
  );
}

/** A group's figures over all matches, one entry per measure. */
function sums(audit, groups, label) {
  return groups.flatMap((group) =>
    measures(audit).map((measure) => ({
      group: label(group),
      measure: measure.name,
      share: group[measure.share],
    })),
  );
}

const COMMON = {
  style: {
    fontSize: "12px",
    fontFamily: "inherit",
    background: "transparent",
    overflow: "visible",
  },
  color: { domain: MATCHES, range: COLORS },
};

/** Facets side by side, one per measure. */
function facets(audit) {
  return {
    domain: measures(audit).map(({ name }) => name),
    padding: audit.text ? 0.1 : 0,
    axis: null,
  };
}

/** The measures of the facets, above them where there are two. */
function facetNames(audit) {
  const names = audit.text ? measures(audit) : [];
  return Plot.text(names, {
    fx: "name",
    text: "name",
    frameAnchor: "top-left",
    dy: -20,
    fill: "var(--faint)",
  });
}

/** One horizontal bar per group, in parts by match; `whole` draws every bar full. */
function bars(audit, groups, { width, whole = false, link }) {
  const label = (group) => group.name;
  const shares = sums(audit, groups, label);
  const longest = Math.max(...shares.map(({ share }) => share), 1e-9);
  const names = groups.map(label);
  const offset = whole ? "normalize" : null;
  const end = whole ? () => 1 : "share";
  const edge = 56 / ((width - 100) / measures(audit).length);
  return Plot.plot({
    ...COMMON,
    width,
    height: groups.length * 24 + (audit.text ? 24 : 4),
    marginLeft: 20 + 7.2 * Math.max(...names.map((name) => name.length)),
    marginRight: 0,
    marginTop: audit.text ? 24 : 4,
    marginBottom: 0,
    x: { axis: null, domain: [0, (whole ? 1 : longest) / (1 - Math.min(edge, 0.6))] },
    y: { domain: names, label: null, padding: 0.28, axis: "left", tickSize: 0 },
    fx: facets(audit),
    marks: [
      facetNames(audit),
      Plot.barX(parts(audit, groups, label), {
        x: whole ? "amount" : "share",
        y: "group",
        fx: "measure",
        fill: "match",
        order: MATCHES,
        offset,
        insetRight: 0.5,
        title: "title",
        href: ({ group, match }) => link(group, match),
        tip: true,
      }),
      Plot.text(shares, {
        x: end,
        y: "group",
        fx: "measure",
        text: ({ share }) => percent(share),
        textAnchor: "start",
        dx: 5,
        fill: "currentColor",
      }),
    ],
  });
}

/** The number of tokens at each distance above 0. */
function histogram(audit, groups, { width }) {
  const rows = groups.flatMap((group) =>
    parts(audit, [group], ({ distance }) => `distance ${distance}`).map((row) => ({
      ...row,
      distance: group.distance,
    })),
  );
  const longest = Math.max(10, ...rows.map(({ distance }) => distance));
  const spacious = width / measures(audit).length / 45;
  return Plot.plot({
    ...COMMON,
    width,
    height: 260,
    marginLeft: 44,
    marginBottom: 36,
    marginTop: 24,
    x: {
      label: "distance",
      labelAnchor: "center",
      labelArrow: "none",
      domain: [0.5, longest + 0.5],
      ticks: d3.ticks(1, longest, Math.min(10, spacious)).filter(Number.isInteger),
      tickFormat: "d",
      tickSize: 0,
    },
    y: { label: null, tickFormat: "~%", ticks: 4, grid: true, nice: true, tickSize: 0 },
    fx: facets(audit),
    marks: [
      facetNames(audit),
      Plot.ruleY([0], { strokeOpacity: 0.3 }),
      Plot.rectY(rows, {
        x1: ({ distance }) => distance - 0.44,
        x2: ({ distance }) => distance + 0.44,
        y: "share",
        fx: "measure",
        fill: "match",
        order: MATCHES,
        title: "title",
        tip: true,
      }),
    ],
  });
}

/** The charts below the tiles: what each is called, shows and links to. */
function chartsOf(audit) {
  const used = (groups) => groups.filter((group) => group.tokens);
  const [rules, kinds] = [used(audit.rules), used(audit.kinds)];
  const near = audit.distances.filter(
    ({ distance }) => distance > 0 && distance <= DISTANCES_DRAWN,
  );
  return [
    {
      id: "rules",
      title: "By rule",
      about: "The rule that found the destination token.",
      groups: rules,
      draw: (width) =>
        bars(audit, rules, { width, link: (rule, match) => hashOf({ rule, match }) }),
    },
    {
      id: "kinds",
      title: "By kind",
      about: "The kind of the source token; a fragment is a piece of a character.",
      groups: kinds,
      draw: (width) =>
        bars(audit, kinds, { width, link: (kind, match) => hashOf({ kind, match }) }),
    },
    {
      id: "scripts",
      title: "By script",
      about: `How near the tokens of each script come; beside it, the script’s share.${
        audit.scripts.length > SCRIPTS_DRAWN
          ? ` The ${SCRIPTS_DRAWN} largest of ${audit.scripts.length}.`
          : ""
      }`,
      groups: audit.scripts,
      draw: (width) => {
        const link = (script, match) => hashOf({ script, match });
        return bars(audit, audit.scripts.slice(0, SCRIPTS_DRAWN), { width, whole: true, link });
      },
    },
    {
      id: "distances",
      title: "By distance",
      about: distancesAbout(audit),
      groups: audit.distances.map((group) => ({ name: String(group.distance), ...group })),
      draw: (width) => histogram(audit, near, { width }),
    },
  ].filter(({ groups }) => groups.length);
}

/** The tokens that the histogram leaves out. */
function distancesAbout({ text, distances }) {
  const same = distances.find(({ distance }) => distance === 0);
  const longest = distances.at(-1)?.distance ?? 0;
  const whole =
    same && measures({ text }).map(({ name, share }) => `${percent(same[share])} ${name}`);
  const left = whole ? [`Not drawn: distance 0, which is ${whole.join(", ")}`] : [];
  if (longest > DISTANCES_DRAWN)
    left.push(
      `${whole ? "and" : "Not drawn:"} distances from ${DISTANCES_DRAWN + 1} to ${longest}`,
    );
  return left.length ? `${left.join("; ")}.` : "";
}
