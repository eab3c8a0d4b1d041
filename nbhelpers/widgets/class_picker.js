// @ts-check
// A combobox over a list that is always open: type to filter, arrows to move, Enter to pick.

let pickers = 0; // for ids

function render({ model, el }) {
  const controller = new AbortController();
  const { signal } = controller;
  const id = `nb-classes-${Date.now().toString(36)}-${pickers++}`;
  const label = make("label", "nb-label", model.get("label"));
  label.htmlFor = `${id}-field`;
  const field = keepKeys(make("input", "nb-field"));
  const list = make("div", "nb-names");
  const output = make("div", "nb-status");
  output.setAttribute("role", "status");
  Object.assign(field, { id: `${id}-field`, type: "search", autocomplete: "off", spellcheck: false });
  field.placeholder = `${model.get("names").length} classes`;
  const roles = { role: "combobox", "aria-expanded": "true", "aria-autocomplete": "list", "aria-controls": `${id}-list` };
  Object.entries(roles).forEach(([name, value]) => field.setAttribute(name, value));
  list.id = `${id}-list`;
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", model.get("label"));
  const options = model.get("names").map((name, i) => {
    const option = make("div", "nb-chip", name);
    option.id = `${id}-${i}`;
    option.setAttribute("role", "option");
    option.addEventListener("mousedown", (event) => event.preventDefault()); // the field keeps the focus
    option.addEventListener("click", () => pick(i));
    return option;
  });
  list.append(...options);
  let found = options.map((_, i) => i); // matches in display order
  let at = -1; // the option that Enter picks

  function move(i) {
    at = i;
    options.forEach((option, k) => option.classList.toggle("nb-active", k === at));
    if (at < 0) return field.removeAttribute("aria-activedescendant");
    field.setAttribute("aria-activedescendant", options[at].id);
    const [box, inner] = [list.getBoundingClientRect(), options[at].getBoundingClientRect()];
    // scrollIntoView would scroll the notebook, too
    if (inner.top < box.top) list.scrollTop -= box.top - inner.top;
    if (inner.bottom > box.bottom) list.scrollTop += inner.bottom - box.bottom;
  }
  function filter() {
    const text = field.value.trim().toLowerCase();
    const rank = (name) => (name.startsWith(text) ? 0 : name.split(" ").some((word) => word.startsWith(text)) ? 1 : 2);
    const names = model.get("names").map((name) => name.toLowerCase());
    found = names.flatMap((name, i) => (name.includes(text) ? [i] : []));
    found.sort((a, b) => (text ? rank(names[a]) - rank(names[b]) : 0) || a - b);
    options.forEach((option, i) => (option.hidden = !found.includes(i)));
    found.forEach((i) => list.append(options[i]));
    output.textContent = !found.length ? `no class “${field.value.trim()}”` : text ? `${found.length} of ${names.length} classes` : "";
    move(text && found.length ? found[0] : -1);
  }
  function mark() {
    const selected = model.get("selected");
    options.forEach((option, i) => option.setAttribute("aria-selected", String(i === selected)));
  }
  function pick(i) {
    move(i);
    field.focus({ preventScroll: true });
    el.dispatchEvent(new CustomEvent("nb-picked", { bubbles: true })); // to the live table
    if (model.get("selected") === i) model.send({ type: "again" }); // an unchanged trait sends no event
    model.set("selected", i);
    model.save_changes();
  }
  field.addEventListener("input", filter);
  field.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const k = found.indexOf(at);
    const last = found.length - 1;
    if (event.key === "ArrowDown") found.length && move(found[Math.min(last, k + 1)]);
    else if (event.key === "ArrowUp") found.length && move(found[Math.max(0, k - 1)]);
    else if (event.key === "Enter") at >= 0 && pick(at);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  listen(model, { "change:selected": mark }, signal);
  el.classList.add("nb-widget");
  el.append(label, field, list, output);
  mark();
  return () => controller.abort();
}

export default { render };
