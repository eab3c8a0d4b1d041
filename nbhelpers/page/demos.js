// @ts-check
// The demos: for each its sentence, the cells of its stage, its controls, and what a pick computes.
// `run` gets what was chosen (frame.js, `Frame.choice`) and a view: `view.show(cell, values, title,
// line)` draws, `view.step(network, step)` moves the bar, `view.numbers(text)` fills More.

const titled = (label) => `${label[0].toUpperCase()}${label.slice(1)} network`;
const fixed = (value) => value.toFixed(2);

// A descent of every network at once; `options(network, k)` sets it up, `draw(network, k, step)` shows it.
const inStep = ({ networks, view, settings, steps }, options, draw) => {
  const { size, full } = settings;
  return Promise.all(
    networks.map(async (network, k) =>
      network.descend({ size, full, steps, ...(await options(network, k)) }, (step) => {
        view.step(k, step);
        if (!view.still || step.index === step.total || step.stopped) draw(network, k, step);
      }),
    ),
  );
};
// How far eight other pictures are from this one, on average: the null of a distance.
async function nullsOf({ networks, pictures, place }, target, at = place) {
  const others = pictures.filter(({ values }) => values !== target);
  const few = others.filter((_, k) => k % Math.ceil(others.length / 8) === 0);
  const images = joined(...few.map(({ values }) => values));
  const found = await Promise.all(networks.map((one) => one.look(images, { place: at, from: target })));
  return found.map(({ distances }) => distances.reduce((a, b) => a + b, 0) / distances.length);
}
const report = ({ networks, view }, what, steps, nulls, unit) =>
  view.numbers(
    `${what}: ${networks.map(({ label }, k) => `${label} ${fixed(steps[k].losses[0])}`).join(", ")}. ` +
      `Other pictures on average: ${nulls.map(fixed).join(", ")}. ${unit}`,
  );
const RELATIVE = "Relative L2 distance of representations.";

async function invert(c, place = c.place, note = "") {
  const { picture, view, seed } = c;
  view.show(0, picture.values, "Photograph", picture.name);
  const start = noise(picture.values.length, seed);
  const goal = { kind: "match", images: picture.values, place };
  const ends = await inStep(c, () => ({ start, goal }), (network, k, step) =>
    view.show(k + 1, step.images, titled(network.label) + note, network.prediction(step)),
  );
  const what = "Distance to the photograph's representation";
  report(c, what, ends, await nullsOf(c, picture.values, place), RELATIVE);
}

// What searches from sixteen starts have in common.
async function means(c) {
  const { picture, view, seed } = c;
  const [count, each] = [16, picture.values.length];
  view.show(0, picture.values, "Photograph", picture.name);
  const starts = joined(...Array.from({ length: count }, (_, k) => noise(each, 1000 * seed + k)));
  const goal = { kind: "match", images: picture.values, place: c.place };
  await inStep(c, () => ({ start: starts, goal }), (network, k, { images }) => {
    const mean = new Float32Array(each);
    images.forEach((value, i) => (mean[i % each] += value / count));
    view.show(k + 1, mean, titled(network.label), `mean of ${count} starts`);
  });
}

function classes(c) {
  const { networks, view, seed, item, sides } = c;
  const start = noise(3 * sides[0] * sides[1], seed, 0.25);
  const goal = { kind: "activate", components: [item], place: "logits" };
  const name = networks[0].about.classes[item];
  return inStep(c, () => ({ start, goal }), (network, k, step) =>
    view.show(k, step.images, titled(network.label), name),
  ).then(async (ends) => {
    // The network that did not draw it classifies it.
    const seen = await Promise.all(
      ends.map((end, k) => networks[(k + 1) % networks.length].look(end.images)),
    );
    ends.forEach((end, k) => {
      const judge = networks[(k + 1) % networks.length];
      view.show(k, end.images, `“${name}” of the ${networks[k].label} network`, judge.prediction(seen[k]));
    });
    view.numbers(`Under each drawing: the other network's prediction. Chance is 1 in ${networks[0].width}.`);
  });
}

// The component of each network: the picked one, and of others the one most alike over the set.
function alike(c) {
  const { networks, item, activations } = c;
  const columnOf = ({ values, width }, k) => {
    const own = Array.from({ length: values.length / width }, (_, n) => values[n * width + k]);
    const mean = own.reduce((a, b) => a + b, 0) / own.length;
    const spread = Math.hypot(...own.map((value) => value - mean)) || 1;
    return own.map((value) => (value - mean) / spread);
  };
  const wanted = columnOf(activations[0], item);
  return networks.map((_, i) => {
    if (!i) return { component: item, r: 1 };
    const all = Array.from({ length: activations[i].width }, (_, k) =>
      columnOf(activations[i], k).reduce((sum, value, n) => sum + value * wanted[n], 0),
    );
    return { component: argmax(all), r: Math.max(...all) };
  });
}
// The pictures that activate a component most.
const highest = ({ pictures, activations }, network, component, count) => {
  const { values, width } = activations[network];
  const order = Array.from({ length: values.length / width }, (_, n) => n);
  order.sort((a, b) => values[b * width + component] - values[a * width + component]);
  return order.slice(0, count).map((n) => [pictures[n], values[n * width + component]]);
};
const MOST = 3; // such pictures beside each drawing

function features(c) {
  const { networks, view, seed, sides, picture, controls } = c;
  const chosen = alike(c);
  const added = controls.start === "added";
  chosen.forEach(({ component }, i) =>
    highest(c, i, component, MOST).forEach(([{ values, name }, value], k) =>
      view.show(i * (MOST + 1) + k + 1, values, name, `${k ? "" : "highest: "}${fixed(value)}`),
    ),
  );
  const start = added ? picture.values : noise(3 * sides[0] * sides[1], seed);
  const options = (_, i) => ({
    start,
    goal: { kind: "activate", components: [chosen[i].component], place: "features" },
    radius: added ? c.settings.radius : undefined,
  });
  view.numbers(
    `${networks.map(({ label }, i) => `${label}: component ${chosen[i].component}`).join(", ")}. ` +
      `Most similar over the ${c.activations[0].values.length / c.activations[0].width} pictures: r ${fixed(chosen.at(-1).r)}. ` +
      "Under the pictures: activations, in the representation's units.",
  );
  return inStep(c, options, (network, i, step) =>
    view.show(i * (MOST + 1), step.images, `${titled(network.label)}`, `no. ${chosen[i].component}: ${fixed(-step.losses[0])}`),
  );
}

async function between(c) {
  const { picture, second, view, place, controls } = c;
  const [from, to] = [picture.values, second.values];
  const amounts = [0, 0.25, 0.5, 0.75, 1];
  const mixes = amounts.map((amount) => from.map((value, k) => value + amount * (to[k] - value)));
  const inner = amounts.slice(1, -1); // both ends are the pictures themselves
  const made = {};
  const draw = () => {
    const at = controls.amount;
    view.show(0, from, "From", picture.name);
    view.show(1, mixes[at], "Mixed pixels", `${100 * (1 - amounts[at])} % and ${100 * amounts[at]} %`);
    for (const [k, { network, step }] of Object.entries(made)) {
      const each = from.length;
      const own = inner.includes(amounts[at]) && step.images.subarray((at - 1) * each, at * each);
      const line = own ? network.prediction(step, at - 1) : "the picture itself";
      view.show(+k + 2, own || mixes[at], titled(network.label), line);
    }
    view.show(c.networks.length + 2, to, "To", second.name);
  };
  view.redraw = draw;
  draw();
  const start = joined(...mixes.slice(1, -1));
  const goal = { kind: "match", images: joined(from, to), place, amounts: inner };
  await inStep(c, () => ({ start, goal }), (network, k, step) => {
    made[k] = { network, step };
    draw();
  });
}

async function mistakes(c) {
  const { networks, picture, view, controls, settings } = c;
  const seen = await Promise.all(networks.map((one) => one.look(picture.values, { place: "features" })));
  view.show(0, picture.values, picture.name, networks.map((one, k) => one.prediction(seen[k])).join(" · "));
  const chosen = networks.map((network, k) => {
    const predicted = argmax(seen[k].logits);
    const order = seen[k].features.map((value, i) => [value * network.head[i * network.width + predicted], i]);
    order.sort((a, b) => b[0] - a[0]);
    const random = Math.floor(generator(c.seed + 7)() * order.length);
    return controls.which < 3 ? order[controls.which] : order[random];
  });
  view.numbers(
    `${networks.map(({ label }, k) => `${label}: component ${chosen[k][1]} adds ${fixed(chosen[k][0])} to the logit`).join(", ")}. ` +
      "A random component is the control.",
  );
  const options = (_, k) => ({
    start: picture.values,
    goal: { kind: "activate", components: [chosen[k][1]], place: "features" },
    radius: settings.radius,
  });
  await inStep(c, options, (network, k, step) =>
    view.show(k + 1, step.images, titled(network.label), network.prediction(step)),
  );
}

async function brittle(c) {
  const { picture, second, view, place, settings, networks } = c;
  view.show(0, picture.values, "Source", picture.name);
  view.show(networks.length + 1, second.values, "Target", second.name);
  const options = () => ({
    start: picture.values,
    goal: { kind: "match", images: second.values, place },
    radius: settings.radius,
  });
  const show = (network, k, step, text) => view.show(k + 1, step.images, network.prediction(step), text);
  const ends = await inStep(c, options, (network, k, step) => show(network, k, step, `distance ${fixed(step.losses[0])}`));
  const nulls = await nullsOf(c, second.values);
  ends.forEach((step, k) => show(networks[k], k, step, `distance ${fixed(step.losses[0])}, others ${fixed(nulls[k])}`));
  const far = ends.map((step) => fixed(lengthOf(step.images, picture.values))).join(", ");
  report(c, "Distance to the target", ends, nulls, `${RELATIVE} The pixels moved by ${far} (L2; pixels in [0, 1]).`);
}

// All changes have one length; each row has its network's order.
async function distances(c) {
  const { networks, picture, second, view, place, settings, sides, seed } = c;
  const [origin, length] = [picture.values, settings.radius];
  const kinds = Object.keys(CHANGES);
  const shown = new Map();
  for (const kind of kinds) {
    shown.set(kind, changedTo(origin, sides, kind, length));
    await new Promise((resolve) => setTimeout(resolve)); // the page goes on answering
  }
  shown.set("another picture", second.values);
  const rows = async () => {
    const images = joined(origin, ...shown.values());
    const found = await Promise.all(networks.map((one) => one.look(images, { place, from: origin })));
    found.forEach((one, i) => {
      const at = i * (kinds.length + networks.length + 2);
      view.show(at, origin, titled(networks[i].label), networks[i].prediction(one));
      const far = [...shown.keys()].map((name, k) => [one.distances[k + 1], name]);
      far.sort((a, b) => a[0] - b[0]);
      far.forEach(([value, name], k) => view.show(at + 1 + k, shown.get(name), name, fixed(value)));
    });
  };
  await rows();
  const push = normals(origin.length, seed + 1); // at the picture itself there is no way to go
  const share = length / 2 / Math.hypot(...push);
  const start = origin.map((value, k) => clamped(value + share * push[k]));
  const goal = { kind: "leave", images: origin, place };
  const ends = await inStep(c, () => ({ start, goal, radius: length, center: origin }), () => {});
  ends.forEach((end, k) => shown.set(`against ${networks[k].label}`, end.images));
  await rows();
  view.numbers(
    `Every change but the other picture has the L2 length ${fixed(length)} (pixels in [0, 1]). ` +
      `${RELATIVE} Another picture is the null.`,
  );
}

async function fill(c) {
  const { picture, view, mask, seed, sides } = c;
  const grain = noise(picture.values.length, seed);
  const hidden = picture.values.map((value, k) => (mask[Math.floor(k / 3)] ? grain[k] : value));
  view.show(0, hidden, "Draw the hole", picture.name);
  if (!mask.some(Boolean)) return view.status("brush over the picture to make a hole");
  const rest = mask.map((value) => 1 - value);
  const goal = { kind: "match", images: picture.values, place: "map", mask: rest };
  const ends = await inStep(c, () => ({ start: hidden, goal, mask }), (network, k, step) =>
    view.show(k + 1, step.images, titled(network.label), network.prediction(step)),
  );
  const inside = [...mask.keys()].filter((k) => mask[k]);
  const rim = [...mask.keys()].filter((k) => !mask[k] && [-1, 1, -sides[1], sides[1]].some((far) => mask[k + far]));
  const error = (values) => inside.reduce((sum, k) => sum + [0, 1, 2].reduce((a, i) => a + (values(k, i) - picture.values[3 * k + i]) ** 2, 0), 0);
  const decibels = (values) => `${(-10 * Math.log10(error(values) / (3 * inside.length) + 1e-9)).toFixed(1)} dB`;
  const mean = [0, 1, 2].map((i) => rim.reduce((sum, k) => sum + picture.values[3 * k + i], 0) / Math.max(1, rim.length));
  view.numbers(
    `PSNR in the hole: ${ends.map((end, k) => `${c.networks[k].label} ${decibels((p, i) => end.images[3 * p + i])}`).join(", ")}. ` +
      `The mean colour of its rim: ${decibels((_, i) => mean[i])}.`,
  );
}

const AMOUNTS = ["100 % · 0 %", "75 % · 25 %", "50 % · 50 %", "25 % · 75 %", "0 % · 100 %"];
const ENDS = { kind: "choice", name: "role", label: "The strip picks", values: ["from", "to"] };
const pairOf = (networks, before, after = []) => [...before, ...networks.map(({ label }) => titled(label)), ...after];

const DEMOS = [
  {
    id: "inversion", name: "Inversion", film: ["pictures"], again: "Again, from other noise", placed: true,
    heading: "What does a neural network see?",
    sentence: "We keep only the network's internal numbers for this photograph, start from noise, and search for an image with the same numbers. No other knowledge of pictures enters.",
    cells: (networks) => pairOf(networks, ["Photograph"]),
    run: (c) => invert(c), means,
  },
  {
    id: "layers", name: "Layers", film: ["pictures"], again: "Again, from other noise",
    sentence: "The same search, one layer after another. How much of the picture is left at each depth?",
    cells: (networks) => pairOf(networks, ["Photograph"]),
    controls: (networks) => {
      const { layers } = networks[0].about;
      const texts = layers.map(({ name }, k) => `${k + 1} of ${layers.length} (${name})`);
      return [{ kind: "range", name: "depth", label: "Layer", texts, value: layers.length - 2 }];
    },
    run: (c) => invert(c, `layer${c.controls.depth}`, `, layer ${c.controls.depth + 1}`),
  },
  {
    id: "classes", name: "Classes", film: ["classes"], again: "Again, from other noise",
    sentence: "What does a network think each class looks like? From faint noise, we raise the score of one class and nothing else.",
    cells: (networks) => pairOf(networks, []),
    controls: () => [{ kind: "search", name: "search", label: "Find a class" }],
    run: classes,
  },
  {
    id: "features", name: "Features", film: ["components"], again: "Again, from other noise",
    sentence: "One number of the representation, a component, is raised until the picture shows its feature. Beside each drawing: the pictures that activate it most.",
    cells: (networks) => networks.flatMap(({ label }) => [titled(label), ...Array(MOST).fill("highest")]),
    columns: MOST + 1,
    controls: () => [{ kind: "choice", name: "start", label: "Start", values: ["noise", "added"], texts: ["from noise", "from the picture"] }],
    run: features,
  },
  {
    id: "paint", name: "Paint", film: ["components", "pictures"], board: "paint",
    sentence: "Choose a component and paint: gradient ascent raises it under the brush. All other pixels stay as they are.",
    cells: () => ["Paint here", "Source"],
    controls: (networks) => [
      { kind: "choice", name: "network", label: "Network", values: networks.map((_, k) => String(k)), texts: networks.map(({ label }) => label) },
      { kind: "range", name: "brush", label: "Brush", texts: [4, 8, 12, 16, 24, 32].map((k) => `${k} px`), value: 3 },
    ],
  },
  {
    id: "fill", name: "Fill a hole", film: ["pictures"], board: "hole", again: "Again, from other noise",
    sentence: "Brush over the picture: what you cover is replaced by noise, and each network fills it from the representation of the rest.",
    cells: (networks) => pairOf(networks, ["Draw the hole"]),
    controls: () => [{ kind: "range", name: "brush", label: "Brush", texts: [4, 8, 12, 16, 24, 32].map((k) => `${k} px`), value: 2 }],
    run: fill,
  },
  {
    id: "between", name: "Between two pictures", film: ["pictures"], placed: true, again: "Again",
    sentence: "The average of two pictures is a double exposure. What is the average of their representations?",
    cells: (networks) => pairOf(networks, ["From", "Mixed pixels"], ["To"]),
    controls: () => [{ kind: "range", name: "amount", label: "Mix", texts: AMOUNTS, value: 2, redraws: true }, ENDS],
    run: between,
  },
  {
    id: "mistakes", name: "Mistakes", film: ["mistakes"], again: "Again",
    sentence: "A picture that a network gets wrong. The component that adds most to the wrong class is raised: what did the network see?",
    cells: (networks) => pairOf(networks, ["Picture"]),
    controls: () => [{ kind: "choice", name: "which", label: "Component", values: [0, 1, 2, 3], texts: ["1st", "2nd", "3rd", "random"] }],
    run: mistakes,
  },
  {
    id: "brittle", name: "Brittle pairs", phone: 2, film: ["pictures"], placed: true, again: "Again",
    sentence: "How near can a small change of the source bring it to the target's representation? Small distance, unchanged picture: the network is brittle.",
    cells: (networks) => pairOf(networks, ["Source"], ["Target"]),
    controls: () => [ENDS],
    run: brittle,
  },
  {
    id: "distance", name: "Distance", film: ["pictures"], placed: true, again: "Again",
    sentence: "Changes of equal L2 length, sorted by each network's distance: which does a network notice?",
    cells: (networks) => networks.flatMap(({ label }) => [titled(label), ...Array(Object.keys(CHANGES).length + networks.length + 1).fill("")]),
    columns: (networks) => Object.keys(CHANGES).length + networks.length + 2, rows: true,
    run: distances,
  },
  {
    id: "recognition", name: "Can you tell?", film: [],
    sentence: "Forty pictures: most are inversions of a layer, some are untouched photographs. What do they show? No feedback until the end; nothing leaves this device.",
    cells: () => ["Which is it?"],
  },
];
