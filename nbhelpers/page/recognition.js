// @ts-check
// Can you tell? A forced choice: one picture at a time, its name among ten, no feedback until the
// end. Design: the metamer test of Feather et al., Nature Neuroscience 26 (2023).

const TRIALS = 40;
const CATCH = 8; // untouched photographs among them
const DEPTHS = 4; // layers of each network that take part
const CHOICES = 10;

// 95 % interval of a share. Source: Wilson, Journal of the American Statistical Association 22, 1927.
function wilson(right, n, z = 1.96) {
  const [share, wide] = [right / n, (z * z) / n];
  const middle = (share + wide / 2) / (1 + wide);
  const half = (z * Math.sqrt((share * (1 - share) + wide / 4) / n)) / (1 + wide);
  return [Math.max(0, middle - half), Math.min(1, middle + half)];
}
const percent = (share) => `${Math.round(100 * share)} %`;

class Recognition {
  frame;
  turn;
  answers;
  made; // pictures, by trial
  constructor(frame) {
    Object.assign(this, { frame, turn: frame.turn, answers: [], made: new Map() });
  }
  get here() {
    return this.turn === this.frame.turn && this.frame.demo.id === "recognition";
  }

  open() {
    const count = Math.min(TRIALS, this.frame.photographs.length);
    place("controls").replaceChildren(button(`Start: ${count} pictures, about four minutes`, () => this.start(), "nb-main"));
    this.frame.show(0, this.frame.photographs[0].values.map(() => 0.5), "Which is it?");
    this.teaser();
  }

  // The standard network's picture from the first demo: what most of them look like.
  async teaser() {
    const image = place("poster-inversion");
    await image.decode();
    const { sides } = this.frame;
    if (this.here && !this.trials) this.frame.show(0, numbersOf(image, sides, 2 * sides[1]), "Which is it?");
  }

  // Every condition equally often, no picture twice; the first needs no computing.
  plan(seed) {
    const { networks, photographs } = this.frame;
    const uniform = generator(seed);
    const pictures = shuffled(photographs, uniform).slice(0, TRIALS);
    const { layers } = networks[0].about;
    const depths = Array.from({ length: Math.min(DEPTHS, layers.length) }, (_, k, n = Math.min(DEPTHS, layers.length)) =>
      Math.floor(((k + 1) * layers.length) / n) - 1,
    );
    const conditions = networks.flatMap((network) => depths.map((depth) => ({ network, depth })));
    const caught = Math.round((CATCH / TRIALS) * pictures.length);
    const kinds = pictures.map((_, k) => (k < caught ? null : conditions[k % conditions.length]));
    const mixed = [null, ...shuffled(kinds.slice(1), uniform)];
    return pictures.map((picture, k) => ({ picture, condition: mixed[k], choices: this.choices(picture, uniform) }));
  }
  // The others are drawn from the twenty pictures nearest in mean colour: colour alone is little help.
  choices({ name, values }, uniform) {
    const colour = (x) => [0, 1, 2].map((c) => x.reduce((sum, value, k) => (k % 3 === c ? sum + value : sum), 0));
    const own = colour(values);
    const others = new Map(this.frame.photographs.map((one) => [one.name, lengthOf(colour(one.values), own)]));
    others.delete(name);
    const near = [...others].sort((a, b) => a[1] - b[1]).slice(0, 2 * CHOICES).map(([other]) => other);
    return shuffled([name, ...shuffled(near, uniform).slice(0, CHOICES - 1)], uniform);
  }

  async start() {
    this.seed = Math.floor(Math.random() * 1e6);
    this.trials = this.plan(this.seed);
    try {
      if (!this.frame.alive) await this.frame.begun;
    } catch {
      return this.frame.status("this browser cannot compute the pictures");
    }
    if (!this.here) return;
    this.prepare();
    this.keys = new AbortController();
    addEventListener("keydown", (event) => this.key(event), { signal: this.keys.signal });
    this.present(0);
  }

  // All pictures in their order, while somebody looks at the first.
  prepare() {
    const { settings, sides } = this.frame;
    const { steps, size, full } = settings.recognition;
    this.trials.forEach(({ picture, condition }, k) => {
      if (!condition) return this.made.set(k, Promise.resolve(picture.values));
      const goal = { kind: "match", images: picture.values, place: `layer${condition.depth}` };
      const start = noise(3 * sides[0] * sides[1], this.seed + k);
      const end = condition.network.descend({ start, goal, steps, size, full });
      this.made.set(k, end.then(({ images }) => images));
      this.made.get(k).catch(() => {}); // left
    });
  }

  async present(k) {
    this.at = k;
    const { frame, trials } = this;
    if (k === trials.length) return this.end();
    Object.assign(place("bar"), { max: trials.length, value: k });
    frame.status(`picture ${k + 1} of ${trials.length}`);
    this.shown = null;
    place("controls").replaceChildren(make("p", { textContent: "The next picture forms…" }));
    let values;
    try {
      values = await this.made.get(k);
    } catch {
      return;
    }
    if (!this.here) return;
    frame.show(0, values, "Which is it?", `picture ${k + 1} of ${trials.length}`);
    const { choices } = trials[k];
    const all = choices.map((name, i) => button(`${(i + 1) % 10} ${name}`, () => this.answer(name)));
    place("controls").replaceChildren(make("div", { className: "nb-answers", role: "group", ariaLabel: "What does it show?" }, ...all));
    this.shown = performance.now();
  }
  key({ key, ctrlKey, metaKey, altKey }) {
    if (!this.here) return this.keys.abort();
    if (!/^\d$/.test(key) || ctrlKey || metaKey || altKey || !this.shown) return;
    const name = this.trials[this.at].choices[(Number(key) + 9) % 10];
    if (name) this.answer(name);
  }
  answer(answer) {
    const { picture, condition } = this.trials[this.at];
    const layer = condition ? condition.network.about.layers[condition.depth].name : "";
    this.answers.push({
      condition: condition ? "inversion" : "original",
      network: condition?.network.about.name ?? "",
      layer: condition ? `${condition.depth + 1} (${layer})` : "",
      image: picture.name, answer,
      right: Number(answer === picture.name),
      time: ((performance.now() - this.shown) / 1000).toFixed(2),
      choices: this.trials[this.at].choices.length,
      seed: this.seed, set: this.frame.dataset, version: this.frame.version,
    });
    this.present(this.at + 1);
  }

  end() {
    this.keys.abort();
    const groups = new Map();
    for (const one of this.answers) {
      const key = one.condition === "original" ? "untouched photographs" : `${one.network}, layer ${one.layer}`;
      groups.set(key, [...(groups.get(key) ?? []), one]);
    }
    const rows = [...groups].sort().map(([key, all]) => {
      const right = all.reduce((sum, one) => sum + one.right, 0);
      const [low, high] = wilson(right, all.length);
      const times = all.map(({ time }) => +time).sort((a, b) => a - b);
      const cells = [key, `${right} of ${all.length}`, `${percent(right / all.length)} (${percent(low)}–${percent(high)})`, `${times[Math.floor(times.length / 2)]} s`];
      return make("tr", {}, ...cells.map((textContent) => make("td", { textContent })));
    });
    const head = ["condition", "right", "accuracy (95 %)", "median time"];
    const table = make("table", {}, make("thead", {}, make("tr", {}, ...head.map((textContent) => make("th", { textContent })))), make("tbody", {}, ...rows));
    const note = make("p", { textContent: `Chance: ${percent(1 / CHOICES)}. Seed ${this.seed}.` });
    const again = button("Another forty", () => this.frame.open());
    place("controls").replaceChildren(make("div", { className: "nb-table", tabIndex: 0 }, table), note, button("Save answers", () => this.save(), "nb-main"), again);
    Object.assign(place("bar"), { value: this.trials.length });
    this.frame.status("done, thank you");
    document.body.dataset.state = "done";
  }
  save() {
    const quoted = (value) => (/[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value);
    const names = Object.keys(this.answers[0]);
    const lines = [names, ...this.answers.map((one) => names.map((name) => quoted(one[name])))];
    download(`answers-${this.seed}.csv`, `${lines.map((line) => line.join(",")).join("\n")}\n`, "text/csv");
  }
}
