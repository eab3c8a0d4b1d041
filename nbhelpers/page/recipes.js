// What a pick of each demo means: the plans of demos.py and inverting.py, on the engine. A plan has stages one after
// the other; a stage has a run for each network, in step, and draws a moment of them as cells of the table.

const Recipes = (() => {
  const argmax = (values) => values.reduce((best, value, k) => (value > values[best] ? k : best), 0);
  const apart = (one, other) => Math.sqrt(one.reduce((sum, value, k) => sum + (value - other[k]) ** 2, 0));
  const says = (network, { logits }, k = 0) => {
    const width = network.classes.length;
    return network.classes[argmax(logits.subarray(k * width, (k + 1) * width))];
  };
  const matches = (network, now, k = 0) => `distance ${now.losses[k].toFixed(2)}\nthis network says: ${says(network, now, k)}`;
  const picture = ({ images, shape }, k = 0) => images.subarray((k * images.length) / shape[0], ((k + 1) * images.length) / shape[0]);
  const cell = (row, column, pixels, text = "") => ({ row, column, pixels, text });

  // Dim grey noise as `nb.noise` draws it, from a generator of its own: seed 0 is the one the page brings along.
  const noise = (shape, seed) => {
    let state = (seed * 2654435761) >>> 0;
    const uniform = () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let mixed = Math.imul(state ^ (state >>> 15), state | 1);
      mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
      return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
    };
    const normal = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
    const size = shape.reduce((a, b) => a * b, 1);
    return Float32Array.from({ length: size }, () => Math.min(1, Math.max(0, normal() / 20 + 0.5)));
  };

  // What a plan is made from: tensors that end with it, and the runs of the demo's length and first step.
  class Kitchen {
    constructor({ recipe, networks, images, shape, positions, seed, steps, pick, captions, stroke }) {
      Object.assign(this, { recipe, networks, positions, seed, steps, pick, captions, stroke, shape });
      this.pictures = images;
      this.kept = [];
      this.labels = recipe.networks.map(([label]) => label);
    }
    keep(x) {
      this.kept.push(x);
      return x;
    }
    end() {
      this.kept.forEach((x) => (x.dispose ? x.dispose() : tf.dispose(x)));
      this.kept = [];
    }
    tensor(values, shape) {
      return this.keep(tf.tensor(values, shape));
    }
    image(k, copies = 1) {
      const one = this.pictures[k];
      const all = new Float32Array(one.length * copies);
      for (let n = 0; n < copies; n++) all.set(one, n * one.length);
      return this.tensor(all, [copies, ...this.shape]);
    }
    // The first `n` starts; of another seed all but the last `own`, which are no noise.
    starts(n, own = 0) {
      const { shape, values } = this.recipe.starts;
      const size = values.length / shape[0];
      const all = values.slice(0, n * size);
      if (this.seed) all.set(noise([n - own, ...shape.slice(1)], this.seed));
      return this.tensor(all, [n, ...shape.slice(1)]);
    }
    run(network, goal, start, { steps = this.steps, positions = this.positions, ...bounds } = {}) {
      const { size, full } = this.recipe;
      const stepSize = Engine.firstStep(size, full, steps, start.shape);
      return Engine.descend(network, goal, start, { positions, steps, stepSize, ...bounds });
    }
    // Runs towards a target image's representation.
    towards(target, start, options) {
      return this.networks.map((network) => {
        const features = network.representation(target, this.positions);
        const goal = this.keep(Engine.match(features));
        features.dispose();
        return this.run(network, goal, start, options);
      });
    }
    raised(network, components, start, { ceilings, radius } = {}) {
      const goal = this.keep(Engine.activate(components, ceilings));
      return this.run(network, goal, start, { positions: false, radius });
    }
  }

  // `result`, of the last moment: what the answer has beside pictures.
  const stage = (steps, runs, draw, note = "", result = () => ({})) => ({ steps, runs, draw, note, result });

  function inversion(kitchen) {
    const { networks, recipe, steps, pictures } = kitchen;
    const target = kitchen.image(0);
    const stages = [
      stage(steps, () => kitchen.towards(target, kitchen.starts(1)), (now) => [
        cell(0, 0, pictures[0]),
        ...now.map((step, k) => cell(0, k + 1, picture(step), matches(networks[k], step))),
      ]),
    ];
    if (!recipe.means) return stages;
    const [count] = recipe.starts.shape;
    const half = Math.ceil(steps / 2);
    const mean = (step) => {
      const sum = new Float32Array(picture(step).length);
      for (let n = 0; n < count; n++) picture(step, n).forEach((value, k) => (sum[k] += value / count));
      return sum;
    };
    const draw = (now) => [cell(1, 0, pictures[0]), ...now.map((step, k) => cell(1, k + 1, mean(step)))];
    const runs = () => kitchen.towards(target, kitchen.starts(count), { steps: half });
    return [...stages, stage(half, runs, draw, `the mean of ${count}: `)];
  }

  function series(kitchen) {
    const { networks, steps, pictures } = kitchen;
    const draw = (now) =>
      now.flatMap((step, k) => [cell(0, k, pictures[0]), cell(1, k, picture(step), matches(networks[k], step))]);
    return [stage(steps, () => kitchen.towards(kitchen.image(0), kitchen.starts(1)), draw)];
  }

  function brittleness(kitchen) {
    const { networks, recipe, steps, pictures } = kitchen;
    const [source, target] = pictures;
    const draw = (now) => [
      cell(0, 0, source),
      ...now.map((step, k) => cell(0, k + 1, picture(step), `${matches(networks[k], step)}\nmoved by ${apart(picture(step), source).toFixed(2)}`)),
      cell(0, networks.length + 1, target),
    ];
    return [stage(steps, () => kitchen.towards(kitchen.image(1), kitchen.image(0), { radius: recipe.radius }), draw)];
  }

  function interpolation(kitchen) {
    const { networks, recipe, steps, pictures, labels, shape, positions } = kitchen;
    const { amounts } = recipe;
    const [first, second] = pictures;
    const mixes = amounts.map((amount) => first.map((value, k) => value + amount * (second[k] - value)));
    const all = Float32Array.from(mixes.flatMap((mix) => Array.from(mix)));
    let texts;
    const runs = () => {
      const start = kitchen.tensor(all, [amounts.length, ...shape]);
      const seen = networks.map((network) => {
        const scores = network.logits(start);
        const logits = scores.dataSync().slice();
        scores.dispose();
        return amounts.map((_, k) => says(network, { logits }, k));
      });
      texts = amounts.map((_, k) => labels.map((label, i) => `${label}: ${seen[i][k]}`).join("\n"));
      return networks.map((network) => {
        const goal = tf.tidy(() => {
          const features = network.representation(start, positions);
          const flat = tf.reshape(features, [amounts.length, -1]);
          const [from, to] = [0, amounts.length - 1].map((k) => tf.slice(flat, [k, 0], [1, flat.shape[1]]));
          const share = tf.tensor2d(amounts, [amounts.length, 1]);
          return tf.add(from, tf.mul(share, tf.sub(to, from)));
        });
        const objective = kitchen.keep(Engine.match(goal));
        goal.dispose();
        return kitchen.run(network, objective, start);
      });
    };
    const draw = (now) => [
      ...mixes.map((mix, k) => cell(0, k, mix, texts[k])),
      ...now.flatMap((step, i) => mixes.map((_, k) => cell(i + 1, k, picture(step, k), matches(networks[i], step, k)))),
    ];
    return [stage(steps, runs, draw)];
  }

  function visualization(kitchen) {
    const { networks, recipe, steps, pick } = kitchen;
    const chosen = recipe.chosen[pick[0]];
    const [count] = recipe.starts.shape;
    const draw = (now) =>
      now.flatMap((step, i) =>
        Array.from(step.losses, (loss, k) => cell(i, k, picture(step, k), (-loss).toFixed(2) + (k ? "" : `\n${chosen[i][1]}`))),
      );
    const runs = () => networks.map((network, i) => kitchen.raised(network, [chosen[i][0]], kitchen.starts(count, 1)));
    return [stage(steps, runs, draw)];
  }

  function manipulation(kitchen) {
    const { networks, recipe, steps, pick, pictures } = kitchen;
    const chosen = recipe.chosen[pick[0]];
    const count = chosen[0][2].length;
    const text = (network, step, k, name) => `activation ${(-step.losses[k]).toFixed(2)}\nthis network says: ${says(network, step, k)}\n${name}`;
    const draw = (now) => [
      ...chosen[0][2].map((_, k) => cell(0, k, pictures[1])),
      ...now.flatMap((step, i) =>
        Array.from(step.losses, (_, k) => cell(i + 1, k, picture(step, k), text(networks[i], step, k, chosen[i][1]))),
      ),
    ];
    const runs = () => {
      const start = kitchen.image(1, count);
      return networks.map((network, i) => kitchen.raised(network, [chosen[i][0]], start, { ceilings: chosen[i][2] }));
    };
    return [stage(steps, runs, draw)];
  }

  // The components that add most to the logit of the class that is said, and a random one.
  function contributors(network, image, top, control) {
    const [features, logits] = tf.tidy(() => {
      const values = network.values(image, [network.places.features, network.places.logits]);
      return [values[network.places.features], values[network.places.logits]].map((x) => x.dataSync().slice());
    });
    const weights = network.head.weight.dataSync(); // (components, classes)
    const said = argmax(logits);
    const parts = Array.from(features, (value, i) => value * weights[i * network.classes.length + said]);
    const order = parts.map((_, i) => i).sort((a, b) => parts[b] - parts[a]);
    return { parts: [...order.slice(0, top), control], said: network.classes[said] };
  }

  function misclassification(kitchen) {
    const { networks, recipe, steps, pick, pictures, labels, captions } = kitchen;
    const { top, controls, radius, known } = recipe;
    const truth = pick[0] < known ? `true: ${captions[0]}` : "";
    let found;
    const text = (i, step, k) => {
      const said = [truth, `this network says: ${says(networks[i], step, k)}`].filter(Boolean).join(" · ");
      return `${said}\ncomponent ${found[i].parts[k]} at ${(-step.losses[k]).toFixed(2)}`;
    };
    const draw = (now) => {
      const original = [truth, ...labels.map((label, i) => `${label} says: ${found[i].said}`)].filter(Boolean).join("\n");
      return [
        ...Array.from({ length: top + 1 }, (_, k) => cell(0, k, pictures[0], original)),
        ...now.flatMap((step, i) => Array.from(step.losses, (_, k) => cell(i + 1, k, picture(step, k), text(i, step, k)))),
      ];
    };
    const runs = () => {
      found = networks.map((network, i) => contributors(network, kitchen.image(0), top, controls[i]));
      const start = kitchen.image(0, top + 1);
      return networks.map((network, i) => kitchen.raised(network, found[i].parts, start, { radius }));
    };
    return [stage(steps, runs, draw)];
  }

  // Changes of one length, for each network in the order of its distances: some brought along, one looked for against
  // each network, and another picture.
  function distances(kitchen) {
    const { networks, recipe, steps, pick, pictures, shape, positions } = kitchen;
    const { kinds, radius } = recipe;
    const changes = recipe.changes[pick[0]];
    const known = changes.shape[0] - 1; // without the other picture
    let views;
    const look = (network, values, n) =>
      tf.tidy(() => {
        const place = network.places[positions ? "map" : "features"];
        const all = network.values(tf.tensor(values, [n, ...shape]), [place, network.places.logits]);
        return { features: all[place].dataSync().slice(), logits: all[network.places.logits].dataSync().slice() };
      });
    const told = (network, { features, logits }, origin) => {
      const far = Math.sqrt(origin.reduce((sum, value) => sum + value ** 2, 0));
      return Array.from({ length: features.length / origin.length }, (_, k) => {
        const own = features.subarray(k * origin.length, (k + 1) * origin.length);
        return { distance: apart(own, origin) / far, says: says(network, { logits }, k) };
      });
    };
    const runs = () => {
      const [center, dim] = [kitchen.image(0), kitchen.starts(1)];
      views = networks.map((network) => {
        const image = look(network, pictures[0], 1);
        return { image, fixed: told(network, look(network, changes.values, known + 1), image.features) };
      });
      const start = kitchen.keep(
        tf.tidy(() => Engine.ball(center, radius)(tf.clipByValue(tf.sub(tf.add(center, dim), 0.5), 0, 1))),
      );
      return networks.map((network) => {
        const origin = network.representation(center, positions);
        const goal = kitchen.keep(Engine.leave(origin));
        origin.dispose();
        return kitchen.run(network, goal, start, { radius, center });
      });
    };
    const draw = (now) => {
      const moved = Float32Array.from(now.flatMap((step) => Array.from(picture(step))));
      const size = pictures[0].length;
      const shown = [
        ...Array.from({ length: known }, (_, k) => changes.values.subarray(k * size, (k + 1) * size)),
        ...now.map((step) => picture(step)),
        changes.values.subarray(known * size),
      ];
      return networks.flatMap((network, i) => {
        const { image, fixed } = views[i];
        const found = [...fixed];
        found.splice(known, 0, ...told(network, look(network, moved, now.length), image.features));
        const order = kinds.map((_, k) => k).sort((a, b) => found[a].distance - found[b].distance);
        const text = (k) => `${kinds[k]}\n${found[k].distance.toFixed(2)}\n${found[k].says}`;
        return [
          cell(i, 0, pictures[0], `the image\n0\n${says(network, image)}`),
          ...order.map((k, column) => cell(i, column + 1, shown[k], text(k))),
        ];
      });
    };
    return [stage(steps, runs, draw)];
  }

  // The share of a mask in each of h × w squares of the picture, as `region_shares`.
  function sharesOf(mask, [height, width], [h, w]) {
    const edges = (k, from, to) => [Math.floor((k * from) / to), Math.ceil(((k + 1) * from) / to)];
    const found = new Float32Array(h * w);
    for (let i = 0; i < h; i++)
      for (let j = 0; j < w; j++) {
        const [[top, bottom], [left, right]] = [edges(i, height, h), edges(j, width, w)];
        let sum = 0;
        for (let y = top; y < bottom; y++) for (let x = left; x < right; x++) sum += mask[y * width + x];
        found[i * w + j] = sum / ((bottom - top) * (right - left));
      }
    const all = found.reduce((a, b) => a + b, 0);
    return found.map((value) => value / all);
  }
  function quantile(values, share) {
    const sorted = Float64Array.from(values).sort();
    const place = share * (sorted.length - 1);
    const [low, high] = [sorted[Math.floor(place)], sorted[Math.ceil(place)]];
    return low + (place - Math.floor(place)) * (high - low);
  }

  // One stroke of the canvas: paint.py's `follow`, and its ceiling.
  function painting(kitchen) {
    const { networks, recipe, steps, pick, pictures, shape, stroke } = kitchen;
    const { network, component, maps } = recipe.palette[pick[0]];
    const [n, h, w] = maps.shape;
    const [here, source] = [networks[network], pictures[1]];
    const shares = sharesOf(stroke.mask, shape, [h, w]);
    const held = Array.from({ length: n }, (_, i) => shares.reduce((sum, share, k) => sum + share * maps.values[i * h * w + k], 0));
    const percentile = recipe.percentiles[stroke.amount];
    const ceiling = percentile === undefined ? null : quantile(held, percentile / 100);
    const draw = ([step]) => [cell(0, 0, source), cell(0, 1, picture(step))];
    const runs = () => {
      const raised = kitchen.keep(Engine.activate([component], ceiling === null ? undefined : [ceiling]));
      const positions = h * w > 1;
      const goal = positions ? Engine.region(kitchen.tensor(shares, [1, h, w, 1]), raised) : raised;
      const options = { positions, radius: recipe.radius, mask: kitchen.tensor(stroke.mask, [1, shape[0], shape[1], 1]) };
      return [kitchen.run(here, goal, kitchen.image(0), options)];
    };
    return [stage(steps, runs, draw, "", ([step]) => ({ image: picture(step), until: step.index, ceiling }))];
  }

  const plans = { painting, inversion, series, brittleness, interpolation, visualization, manipulation };
  Object.assign(plans, { misclassification, distances });
  return { Kitchen, plan: (kitchen) => plans[kitchen.recipe.kind](kitchen) };
})();
