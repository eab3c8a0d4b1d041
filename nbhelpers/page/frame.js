// @ts-check
// The frame that every demo is shown in: heading, stage, bar, controls, film strip, More. One demo
// at a time; its address is its id.

/** @type {(id: string) => any} */
const place = (id) => document.getElementById(id);
const make = (tag, attributes = {}, ...children) => {
  const { dataset, role, ...own } = attributes;
  const made = Object.assign(document.createElement(tag), own);
  Object.assign(made.dataset, dataset);
  if (role) made.setAttribute("role", role);
  made.append(...children);
  return made;
};
const button = (text, press, className = "") => {
  const made = make("button", { type: "button", textContent: text, className });
  made.addEventListener("click", press);
  return made;
};
const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

const EMPTY = "not computed yet"; // of a cell, for screen readers

// A strip of things to pick: one stop of the Tab key, arrows inside.
class Film {
  constructor(label, items, picked) {
    this.list = make("div", { className: "nb-film", role: "listbox", ariaLabel: label });
    this.list.setAttribute("aria-orientation", "horizontal");
    this.options = new Map();
    for (const { key, name, image, text } of items) {
      const option = make("div", { className: text ? "nb-chip" : "nb-thumb", role: "option", title: name, ariaLabel: name });
      Object.assign(option, { tabIndex: -1, ariaSelected: "false" });
      if (image) drawLater(option, () => canvasShowing(image(), name));
      if (text) option.append(text);
      option.addEventListener("click", () => picked(key));
      this.options.set(key, option);
      this.list.append(option);
    }
    this.list.addEventListener("keydown", (event) => this.moved(event));
  }
  get shown() {
    return [...this.options.values()].filter((option) => !option.hidden);
  }
  moved(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const all = this.shown;
    const at = all.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (event.key === "Enter" || event.key === " ") all[at]?.click();
    else if (to === undefined) return;
    else {
      const next = all[Math.max(0, Math.min(all.length - 1, to))];
      all.forEach((option) => (option.tabIndex = option === next ? 0 : -1));
      next?.focus();
    }
    event.preventDefault();
  }
  select(key) {
    const chosen = this.options.get(key);
    for (const option of this.options.values()) {
      option.ariaSelected = String(option === chosen);
      option.tabIndex = option === chosen ? 0 : -1;
    }
    if (!chosen) return this.shown[0] && (this.shown[0].tabIndex = 0);
    const [{ left, right }, box] = [chosen.getBoundingClientRect(), this.list.getBoundingClientRect()];
    if (left < box.left || right > box.right) this.list.scrollLeft += left - box.left - 8;
  }
  // Only what has these letters in its name.
  search(text) {
    for (const option of this.options.values())
      option.hidden = !option.title.toLowerCase().includes(text.trim().toLowerCase());
    const { shown } = this;
    if (!shown.some((option) => option.tabIndex === 0) && shown[0]) shown[0].tabIndex = 0;
  }
}
// What an element contains is made once it is on the screen: three hundred thumbnails take 0.3 s.
const waiting = new WeakMap();
const arrived = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    arrived.unobserve(target);
    target.append(waiting.get(target)());
  }
});
const drawLater = (element, content) => {
  waiting.set(element, content);
  arrived.observe(element);
};
const canvasShowing = (image, name) => {
  const canvas = make("canvas", { width: image.width, height: image.height });
  canvas.setAttribute("role", "img");
  canvas.ariaLabel = name;
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
};

class Frame {
  // What the page brings along (start.js).
  activations;
  photographs;
  pictures;
  posters;
  settings;
  sides;
  wrong;
  networks;
  alive; // whether the engine runs; undefined before that is known
  begun;
  settle; // called once nothing runs for the first time; `settled` resolves then
  turn; // grows with every pick, so that a late answer is known as one
  constructor(state, networks) {
    Object.assign(this, state, { networks, turn: 0, running: false, films: [] });
    this.settled = new Promise((resolve) => (this.settle = resolve));
    this.chosen = { from: 0, to: 1, component: state.component, class: 0, mistake: state.wrong[0] ?? 0 };
    this.wishes = {}; // by demo: seed, steps, representation, controls
    place("again").addEventListener("click", () => this.again());
    place("stop").addEventListener("click", () => this.stop());
    addEventListener("hashchange", () => this.open());
    addEventListener("keydown", (event) => event.key === "Escape" && this.stop());
    for (const { id, name } of this.demos) {
      const link = make("a", { href: `#${id}`, textContent: name });
      place("nav").append(make("li", {}, link));
    }
  }
  get demos() {
    return DEMOS.filter(({ id }) => id in this.posters || (id === "recognition" && "layers" in this.posters));
  }

  // --- a demo ---

  open() {
    this.leave();
    const wanted = location.hash.slice(1);
    this.demo = this.demos.find(({ id }) => id === wanted) ?? this.demos[0];
    const { demo } = this;
    const { steps } = this.settings[demo.id] ?? {};
    const controls = demo.controls?.(this.networks) ?? [];
    this.wishes[demo.id] ??= {
      seed: 0, steps, mode: "map",
      controls: Object.fromEntries(controls.map(({ name, kind, value, values }) => [name, kind === "range" ? value : values?.[0]])),
    };
    place("heading").textContent = demo.heading ?? demo.name;
    place("sentence").textContent = demo.sentence;
    document.title = `${demo.heading ?? demo.name} · Inside a representation`;
    for (const link of place("nav").querySelectorAll("a")) {
      const here = link.hash === `#${demo.id}`;
      link.ariaCurrent = here ? "page" : null;
      if (here) place("nav").scrollLeft = link.offsetLeft - place("nav").offsetLeft - 48; // on a phone it scrolls
    }
    this.stage(demo.cells(this.networks), demo);
    place("again").hidden = !demo.again;
    place("again").textContent = `▶ ${demo.again ?? ""}`;
    place("controls").replaceChildren(...controls.map((control) => this.control(control)));
    this.more();
    this.strips();
    this.status("");
    place("bar").value = 0;
    this.board = demo.board && new BOARDS[demo.board](this);
    document.body.dataset.demo = demo.id;
    this.poster();
    if (!demo.run) this.settle();
    if (demo.id === "recognition") return new Recognition(this).open();
    if (still()) this.settle();
    else if (this.alive !== false) this.start();
  }

  /** @param {string[]} titles @param {any} demo */
  stage(titles, { columns: wanted, rows }) {
    const stage = place("stage");
    const columns = typeof wanted === "function" ? wanted(this.networks) : wanted;
    stage.style.setProperty("--columns", columns ?? titles.length);
    stage.style.setProperty("--phone", this.demo.phone ?? ((columns ?? 0) > 4 || titles.length > 4 && !columns ? 3 : columns ?? titles.length));
    stage.style.setProperty("--rows", String(Math.ceil(titles.length / (columns ?? titles.length))));
    stage.classList.toggle("nb-rows", Boolean(rows));
    stage.tabIndex = rows ? 0 : -1; // it scrolls
    const [height, width] = this.sides;
    this.cells = titles.map((title) => {
      const canvas = make("canvas", { width, height, role: "img" });
      const [head, line] = [make("b", { textContent: title }), make("span")];
      const figure = make("figure", {}, make("div", { className: "nb-picture" }, canvas), make("figcaption", {}, head, line));
      canvas.ariaLabel = title || EMPTY;
      canvas.addEventListener("click", () => this.demo.again && !this.demo.board && this.again());
      return { figure, canvas, head, line, title };
    });
    stage.replaceChildren(...this.cells.map(({ figure }) => figure));
  }

  show(k, values, title, line = "") {
    const { canvas, head, line: second } = this.cells[k];
    canvas.getContext("2d").putImageData(imageOf(values, this.sides), 0, 0);
    if (head.textContent !== title) head.textContent = title;
    if (second.textContent !== line) second.textContent = line;
    canvas.ariaLabel = `${title}: ${line}`;
  }

  // A table shows one pick: what is not computed yet is empty.
  blank() {
    const [height, width] = this.sides;
    for (const { canvas, head, line, title } of this.cells) {
      canvas.getContext("2d").clearRect(0, 0, width, height);
      [head.textContent, line.textContent, canvas.ariaLabel] = [title, "", title || EMPTY];
    }
    place("numbers").textContent = "";
  }

  // What was computed beforehand: the first pick of the demo.
  async poster() {
    const { turn, demo, posters, sides } = this;
    if (!(demo.id in posters) || (!demo.run && this.alive !== false)) return; // the canvas begins empty
    const { captions } = posters[demo.id];
    const image = place(`poster-${demo.id}`);
    await image.decode();
    if (turn !== this.turn || this.drawn === turn) return;
    captions.forEach(([title, line], k) => {
      const columns = Math.round(image.naturalWidth / sides[1]);
      const at = [(k % columns) * sides[1], Math.floor(k / columns) * sides[0]];
      this.show(k, numbersOf(image, sides, ...at), title, line);
    });
  }

  // --- what is chosen ---

  /** @param {any} about */
  control({ kind, name, label, texts, values, redraws }) {
    const { controls } = this.wishes[this.demo.id];
    const change = (value) => {
      controls[name] = value;
      if (redraws) this.view?.redraw?.();
      else if (name === "role") this.films[0]?.select(this.chosen[value]);
      else if (this.demo.run) this.start();
      else this.board?.changed?.();
    };
    if (kind === "search") {
      const input = make("input", { type: "search", placeholder: label, ariaLabel: label });
      input.addEventListener("input", () => this.films[0].search(input.value));
      return input;
    }
    if (kind === "range") {
      const range = make("input", { type: "range", min: 0, max: texts.length - 1, value: controls[name] });
      const shown = make("output", { textContent: texts[controls[name]] });
      range.ariaValueText = texts[controls[name]];
      range.addEventListener("input", () => {
        shown.textContent = range.ariaValueText = texts[range.value];
        controls[name] = +range.value;
        if (redraws) change(+range.value);
      });
      range.addEventListener("change", () => redraws || change(+range.value));
      return make("label", { className: "nb-range" }, label, range, shown);
    }
    const group = make("div", { className: "nb-choice", role: "radiogroup", ariaLabel: label }, make("span", { textContent: label }));
    const all = values.map((value, k) => {
      const radio = make("input", { type: "radio", name: `${this.demo.id}-${name}`, value, checked: value === controls[name] });
      radio.addEventListener("change", () => change(value));
      return make("label", {}, radio, make("span", { textContent: texts?.[k] ?? value }));
    });
    group.append(...all);
    return group;
  }

  more() {
    const { demo } = this;
    const wishes = this.wishes[demo.id];
    const list = [];
    const select = (label, values, name, texts = values) => {
      const made = make("select", {}, ...values.map((value, k) => make("option", { value, textContent: texts[k], selected: value === wishes[name] })));
      made.addEventListener("change", () => {
        wishes[name] = values[made.selectedIndex];
        this.start();
      });
      list.push(make("label", {}, `${label} `, made));
      return made;
    };
    const { steps } = this.settings[demo.id] ?? {};
    if (steps) select("Steps", [steps, 2 * steps, 5 * steps], "steps");
    this.seeds = demo.again ? select("Noise", [...Array(10).keys()], "seed", [...Array(10).keys()].map((k) => `no. ${k}`)) : null;
    if (demo.placed) select("Representation", ["map", "features"], "mode", ["with positions", "averaged over positions"]);
    if (demo.means) list.push(button("Mean of 16 starts", () => this.start(demo.means)));
    place("wishes").replaceChildren(...list);
    place("numbers").textContent = "";
    place("more").hidden = !demo.run && !demo.board;
  }

  strips() {
    const { demo, pictures } = this;
    const kinds = {
      pictures: () => this.pictureFilm("Choose a picture", [...pictures.keys()], "from"),
      mistakes: () => this.pictureFilm("Choose a picture that is classified wrongly", this.wrong, "mistake"),
      classes: () => {
        const items = this.networks[0].about.classes.map((name, key) => ({ key, name, text: name }));
        return this.film("Choose a class", items, "class");
      },
      components: () => {
        const network = demo.id === "paint" ? +this.wishes.paint.controls.network : 0;
        const { width } = this.activations[network];
        const items = Array.from({ length: width }, (_, key) => {
          const [[picture]] = highest(this, network, key, 1);
          return { key, name: `component ${key}, highest: ${picture.name}`, image: () => this.thumbOf(picture) };
        });
        return this.film("Choose a component", items, "component");
      },
    };
    this.films = [];
    const strips = demo.film.map((kind) => kinds[kind]());
    place("films").replaceChildren(...strips);
    this.credit();
  }
  get role() {
    return this.wishes[this.demo.id].controls.role ?? "from";
  }
  film(label, items, role) {
    const film = new Film(label, items, (key) => this.pick(key, role));
    this.films.push(film);
    requestAnimationFrame(() => film.select(this.chosen[role === "from" ? this.role : role]));
    return film.list;
  }
  pictureFilm(label, keys, role) {
    const items = keys.map((key) => ({ key, name: this.pictures[key].name, image: () => this.thumbOf(this.pictures[key]) }));
    const own = button("+ yours", () => place("file").click(), "nb-own");
    const list = this.film(label, items, role);
    const all = [list];
    if (role !== "mistake") {
      own.title = "a picture from a file; you can also drop or paste one. It never leaves this device";
      all.unshift(own);
      if (navigator.mediaDevices?.getUserMedia) all.splice(1, 0, button("Camera", () => this.camera(), "nb-own"));
    }
    return make("div", { className: "nb-strip" }, ...all);
  }
  thumbOf(picture) {
    return (picture.image ??= imageOf(picture.values, this.sides));
  }
  pick(key, role) {
    const at = role === "from" ? this.role : role;
    this.chosen[at] = key;
    this.films.find((film, k) => this.rolesOf(k) === role)?.select(key);
    this.credit();
    if (this.board?.picked) this.board.picked(at);
    else this.start();
  }
  rolesOf(k) {
    return { pictures: "from", mistakes: "mistake", classes: "class", components: "component" }[this.demo.film[k]];
  }
  credit() {
    const { from, mistake } = this.chosen;
    const shown = this.demo.film.includes("mistakes") ? mistake : this.demo.film.includes("pictures") ? from : null;
    place("credit").textContent = shown === null ? "" : this.pictures[shown].credit;
  }

  // --- a run ---

  choice() {
    const { demo, chosen, pictures, networks, sides, activations } = this;
    const wishes = this.wishes[demo.id];
    const at = demo.film.includes("mistakes") ? chosen.mistake : chosen.from;
    const item = demo.film.includes("classes") ? chosen.class : chosen.component;
    return {
      networks, sides, pictures, activations, item, picture: pictures[at], second: pictures[chosen.to],
      seed: wishes.seed, steps: wishes.steps, place: wishes.mode, controls: wishes.controls,
      settings: this.settings[demo.id], view: this.view, mask: this.board?.mask,
    };
  }

  again() {
    const wishes = this.wishes[this.demo.id];
    if (this.demo.again.includes("noise") && this.drawn) wishes.seed = (wishes.seed + 1) % 10;
    if (this.seeds) this.seeds.selectedIndex = wishes.seed;
    this.start();
  }

  // A view of this run alone: what a run that was left shows is not seen.
  newView() {
    const turn = ++this.turn;
    const indices = [];
    const mine = (act) => (...given) => turn === this.turn && act(...given);
    const began = performance.now();
    return {
      still: still(),
      show: mine((...given) => {
        this.drawn = turn;
        this.show(...given);
      }),
      step: mine((k, { index, total, stopped }) => {
        indices[k] = index;
        const least = Math.min(...indices.filter((value) => value !== undefined));
        Object.assign(place("bar"), { max: total, value: least });
        place("status").textContent = `step ${least} of ${total}${stopped ? ", stopped" : ""}`;
      }),
      numbers: mine((text) => (place("numbers").textContent = text)),
      status: mine((text) => this.status(text)),
      seconds: () => ((performance.now() - began) / 1000).toFixed(1),
    };
  }

  async start(run = this.demo.run) {
    if (!run) return;
    this.leave();
    this.blank();
    this.view = this.newView();
    const { turn } = this;
    this.state("running");
    try {
      if (!this.alive) {
        this.status("the engine starts…");
        await this.begun;
      }
      if (turn !== this.turn) return;
      await run(this.choice());
      if (turn === this.turn) this.state("done");
    } catch (error) {
      if (turn !== this.turn || error === LEFT) return;
      this.state("error");
      if (this.alive !== false) this.status(error.message);
    }
  }

  state(now) {
    document.body.dataset.state = now;
    this.running = now === "running";
    place("stop").hidden = !this.running;
    if (now === "done" || now === "error") this.settle();
  }
  status(text) {
    place("status").textContent = text;
  }
  stop() {
    if (this.running) this.networks.forEach((network) => network.stop());
  }
  leave() {
    this.turn += 1;
    this.networks.forEach((network) => network.leave());
    this.state("idle");
  }

  // --- pictures of one's own ---

  async own(file) {
    let found;
    try {
      found = await ownPicture(file, this.sides);
    } catch {
      return this.status(`cannot read ${file.name} as an image; save it as PNG or JPEG`);
    }
    const name = (file.name ?? "yours").replace(/\.[^.]*$/, "").slice(0, 40);
    this.pictures.push({ values: found.values, name, credit: found.cut ? `${name}: the centre was cut out` : "" });
    if (!this.demo.film.includes("pictures")) location.hash = "#inversion";
    else this.strips();
    this.pick(this.pictures.length - 1, "from");
  }

  takesFiles() {
    const input = place("file");
    input.addEventListener("change", () => {
      const [file] = input.files;
      if (file) this.own(file).then(() => (input.value = ""));
    });
    addEventListener("dragover", (event) => event.preventDefault());
    for (const [kind, field] of [["drop", "dataTransfer"], ["paste", "clipboardData"]])
      addEventListener(kind, (event) => {
        const [file] = event[field]?.files ?? [];
        if (!file) return;
        event.preventDefault();
        this.own(file);
      });
  }

  async camera() {
    const dialog = place("camera");
    const video = dialog.querySelector("video");
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (error) {
      return this.status(`the camera cannot be used (${error.name})`);
    }
    video.srcObject = stream;
    const ended = new AbortController();
    const close = () => {
      ended.abort();
      stream.getTracks().forEach((track) => track.stop());
      video.srcObject = null;
      dialog.close();
    };
    const on = (element, kind, act) => element.addEventListener(kind, act, { signal: ended.signal });
    on(dialog, "cancel", close);
    on(dialog.querySelector("[value=cancel]"), "click", close);
    on(dialog.querySelector("[value=take]"), "click", async () => {
      const [canvas, context] = canvasOf(video.videoWidth, video.videoHeight);
      context.drawImage(video, 0, 0);
      close();
      this.own(new File([await canvas.convertToBlob({ type: "image/png" })], "camera.png"));
    });
    dialog.showModal();
    await video.play();
  }
}
