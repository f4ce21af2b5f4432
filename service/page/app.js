// The page of Sightline: asks the service's own REST routes and draws what they answer.
// Whatever comes from a collection is untrusted text: it reaches the page through textContent only.

const byId = (id) => document.getElementById(id);

/** Build an element from DOM properties and children; a child that is a string becomes text, never markup. */
function h(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const named = (result) => result.caption || result.uri || result.id;
const itemPath = (id) => `/v1/items/${encodeURIComponent(id)}`;
const chosenK = () => Number(byId("k").value);

// --- talking to the service ------------------------------------------------------------------------------
class Problem extends Error {} // its message is one sentence for the reader

/** Fetch one route. Rejects with Problem, or with AbortError when `signal` fires. */
async function call(path, { body, type, signal } = {}) {
  const options = { method: body === undefined ? "GET" : "POST", body, signal };
  if (type) options.headers = { "Content-Type": type };
  const response = await fetch(path, options).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Problem("The service did not answer: check that it is running, then try again.");
  });
  if (response.ok) return response;
  const { detail, title } = await response.json().catch(() => ({})); // a proxy's error page is no JSON
  throw new Problem(detail || title || `The service answered with status ${response.status}.`);
}

/** Ask one route for JSON; adds to the answer, in words, what Server-Timing says of its stages. */
async function ask(path, options) {
  const started = performance.now();
  const response = await call(path, options);
  const metrics = (response.headers.get("Server-Timing") ?? "").matchAll(/([\w-]+)[^,]*?;\s*dur=([\d.]+)/g);
  const stages = { total: performance.now() - started }; // stands in where the service names no total
  for (const [, name, duration] of metrics) stages[name] = Number(duration);
  const words = Object.entries(stages).map(([name, n]) => `${name} ${n.toFixed(n < 10 ? 1 : 0)} ms`);
  return { ...(await response.json()), timing: words.join(" · ").replace("total", "in") };
}

const askText = (text, k, signal) =>
  ask("/v1/text-to-image", { body: JSON.stringify({ text, k }), type: "application/json", signal });
const askImage = (path, blob, signal) => { // an unknown type is no obstacle: the service goes by the bytes
  const type = blob.type.startsWith("image/") ? blob.type : "application/octet-stream";
  return ask(`${path}?k=${chosenK()}`, { body: blob, type, signal });
};

// --- one search at a time --------------------------------------------------------------------------------
let current = new AbortController();

/** Run `work(signal)` in place of whatever runs now. It returns a function that paints, which is called
 *  only when no later search has begun: a slow answer can never overwrite a newer one. */
async function run(work) {
  current.abort();
  const { signal } = (current = new AbortController());
  byId("results").ariaBusy = "true"; // the stylesheet shows it
  say("Looking…");
  try {
    const paint = await work(signal);
    if (!signal.aborted) paint();
  } catch (error) {
    if (signal.aborted) return;
    show("", "", []);
    say(error instanceof Problem ? error.message : "The page could not read the answer: reload it.", true);
    if (!(error instanceof Problem)) console.error(error);
  } finally {
    if (!signal.aborted) byId("results").ariaBusy = "false";
  }
}

function say(sentence, problem = false) {
  byId("status").textContent = sentence;
  byId("status").classList.toggle("problem", problem);
}

// --- drawing answers -------------------------------------------------------------------------------------
function show(heading, layout, entries, note = "") {
  byId("intro").hidden = true;
  byId("heading").textContent = heading;
  byId("note").textContent = note;
  byId("answers").className = `answers ${layout}`;
  byId("answers").replaceChildren(...entries);
  byId("line").replaceChildren();
}

function showRanked(answer, unit) {
  const layout = unit === "picture" ? "grid" : "rows";
  const entries = answer.results.map((result, rank) => entry(layout, result, rank));
  show(entries.length ? `Closest ${unit}s first` : `No ${unit} came back`, layout, entries);
  if (entries.length) drawTicks(answer.results, entries);
  finish(answer, unit);
}

function finish({ generation, timing, results: { length } }, unit) {
  byId("fact-generation").textContent = generation; // perhaps newer than when the page was loaded
  say(`${length} ${length === 1 ? unit : `${unit}s`} ${timing}`);
}

/** One answer as a list item: a tile of the picture grid, or a row of the list of captions. */
function entry(layout, result, rank, scored = true) {
  const isTile = layout === "grid";
  const item = h("li", { className: isTile ? "tile" : "sentence" });
  const image = h("img", { decoding: "async", loading: rank < 24 ? "eager" : "lazy" });
  const frame = h("span", { className: "shot" }, image);
  image.onload = () => {
    // The row's layout needs the true ratio; extremes are cropped, or one panorama would fill a whole row.
    const ratio = Math.min(2.2, Math.max(0.62, image.naturalWidth / image.naturalHeight));
    if (isTile) item.style.setProperty("--ratio", ratio.toFixed(4));
  };
  image.onerror = () => frame.classList.add("blank");
  // A screen reader should read the caption once: as the alt text of a tile, or as the words of a row.
  Object.assign(image, { alt: isTile ? named(result) : "", src: result.thumbnail });
  const words = h("span", { className: "caption", ariaHidden: String(isTile) }, named(result));
  const score = scored ? [h("span", { className: "score", title: "cosine" }, result.score.toFixed(3))] : [];
  const parts = isTile ? [h("span", { className: "says" }, ...score, words)] : [...score, words];
  item.append(h("button", { ariaHasPopup: "dialog", onclick: () => openItem(result) }, frame, ...parts));
  return item;
}

/** One tick for each answer at its score, on the line under the question: where do the good ones end? */
function drawTicks(results, entries) {
  const scores = results.map((result) => result.score);
  const [low, high] = [Math.min(...scores), Math.max(...scores)];
  const ticks = entries.map((item, rank) => {
    const tick = h("i", { className: rank === 0 ? "tick best" : "tick" });
    tick.style.left = `${high > low ? (100 * (scores[rank] - low)) / (high - low) : 100}%`;
    const light = (lit) => () => [tick, item].forEach((part) => part.classList.toggle("on", lit));
    tick.onmouseenter = item.onmouseenter = light(true);
    tick.onmouseleave = item.onmouseleave = light(false);
    return tick;
  });
  const ends = [low, high].map((end) => h("span", { className: "end" }, `cosine ${end.toFixed(3)}`));
  byId("line").replaceChildren(...ticks, ...ends);
}

const kinds = {
  softmax: "Softmax: the labels share 100 %, so one always leads, even when none of them fits.",
  sigmoid: "Sigmoid: each label is judged by itself, so all of them may be likely, or none.",
};

function showLabels(answer) {
  const bars = answer.results.map(({ label, probability, score }) => {
    const fill = h("i");
    fill.style.width = `${100 * probability}%`;
    const share = { className: "share", title: `cosine ${score.toFixed(3)}` };
    return h("li", { className: "bar" }, h("span", { className: "name" }, label),
      h("span", share, `${(100 * probability).toFixed(1)} %`), h("span", { className: "track" }, fill));
  });
  show("What the picture shows", "rows", bars, kinds[answer.kind] ?? answer.kind);
  finish(answer, "label");
}

// --- questions -------------------------------------------------------------------------------------------
let picture = null; // the Blob that the reader looks with
let again = () => {}; // repeats the question, for another k

const searchText = (text) => run(async (signal) => {
  const answer = await askText(text, chosenK(), signal);
  return () => showRanked(answer, "picture");
});
/** Pictures like one of the collection: its thumbnail is the question, so that a link needs no upload. */
const searchLike = (id) => run(async (signal) => {
  const blob = await (await call(`${itemPath(id)}/thumbnail`, { signal })).blob();
  const answer = await askImage("/v1/image-to-image", blob, signal);
  return () => {
    hold(blob, id);
    showRanked(answer, "picture");
  };
});

/** A question about the picture in hand. Its bytes fit no address, so the address stops naming a search. */
function askPicture(work) {
  leaveAddress();
  again = () => run(work);
  again();
}

const findClosest = (path, unit) => askPicture(async (signal) => {
  const answer = await askImage(path, picture, signal);
  return () => showRanked(answer, unit);
});

function compareLabels() {
  const labels = byId("labels").value.split(",").map((label) => label.trim()).filter(Boolean);
  askPicture(async (signal) => {
    const body = new FormData();
    body.append("image", picture, picture.name ?? "picture");
    for (const label of labels) body.append("labels", label);
    const answer = await ask("/v1/zero-shot", { body, signal });
    return () => showLabels(answer);
  });
}

/** Take a picture in hand; null puts it away. */
function hold(blob, name) {
  URL.revokeObjectURL(byId("preview").src);
  picture = blob;
  byId("picture").hidden = !blob;
  byId("file").value = ""; // so that choosing the same file again counts as a change
  if (!blob) return;
  byId("preview").src = URL.createObjectURL(blob);
  byId("picture-name").textContent = name;
  byId("picture-size").textContent = `${Math.ceil(blob.size / 1024).toLocaleString("en")} KiB`;
}

/** A picture that the reader brings: what it replaces on the page belonged to another question. */
function takePicture(file) {
  if (!file) return;
  run(async () => () => {
    leaveAddress();
    show("", "", []);
    hold(file, file.name || "Your picture");
    say("Choose what to do with the picture.");
    byId("find-similar").focus();
  });
}

// --- one item, in its dialog -----------------------------------------------------------------------------
async function openItem(result) {
  const closing = new AbortController();
  byId("item").addEventListener("close", () => closing.abort(), { once: true });
  byId("item").dataset.id = result.id;
  Object.assign(byId("item-image"), { src: result.thumbnail, alt: named(result) });
  byId("item-title").textContent = named(result);
  byId("item-problem").textContent = "";
  byId("item-captions").replaceChildren();
  byId("item-facts").replaceChildren(...facts(result));
  byId("item").showModal();
  try {
    const { item } = await ask(itemPath(result.id), { signal: closing.signal });
    const others = (item.captions ?? []).filter((text) => text !== named(result));
    byId("item-captions").replaceChildren(...others.map((text) => h("li", {}, text)));
    byId("item-facts").replaceChildren(...facts({ ...result, ...item }));
  } catch (error) {
    if (error.name !== "AbortError") byId("item-problem").textContent = error.message;
  }
}

/** An item's own data and its metadata as pairs of dt and dd. */
function facts({ id, uri, score, width_px, height_px, metadata }) {
  const size = width_px && height_px ? `${width_px} × ${height_px} px` : null;
  const own = Object.entries({ id, uri, size, score: score?.toFixed(4) });
  const all = [...own, ...Object.entries(metadata ?? {})].filter(([, value]) => value != null);
  return all.flatMap(([name, value]) => {
    const text = typeof value === "object" ? JSON.stringify(value) : String(value);
    // Only web addresses become links: a collection may hold any string, `javascript:` included.
    const linked = name === "uri" && /^https?:/i.test(text);
    return [h("dt", {}, name), h("dd", {}, linked ? h("a", { href: text, rel: "noreferrer" }, text) : text)];
  });
}

// --- the address, the header, the first view -------------------------------------------------------------
/** Write the question into the address, then follow it: a search and its link are the same thing. */
function go(question) {
  const address = `?${new URLSearchParams({ ...question, k: chosenK() })}`;
  if (address !== location.search) history.pushState(null, "", address);
  follow();
}

function leaveAddress() {
  if (location.search) history.pushState(null, "", "/");
  byId("text").value = "";
  document.title = "Sightline";
}

function follow() {
  const { k = "", q = "", like } = Object.fromEntries(new URLSearchParams(location.search));
  if ([...byId("k").options].some((option) => option.value === k)) byId("k").value = k;
  const text = q.trim();
  byId("text").value = text;
  document.title = text ? `${text} – Sightline` : "Sightline";
  again = like || text ? () => go(like ? { like } : { q: text }) : () => {};
  if (like) return searchLike(like);
  hold(null);
  return text ? searchText(text) : welcome();
}

async function describeService() {
  const [{ collections }, { data: models }] = await Promise.all([ask("/v1/collections"), ask("/v1/models")]);
  const collection = collections[0];
  const model = models.find((one) => one.fingerprint === collection?.encoder) ?? models[0];
  byId("untrained").hidden = !model?.untrained;
  byId("fact-collection").textContent = collection?.name ?? "none";
  byId("fact-pictures").textContent = (collection?.num_items ?? 0).toLocaleString("en");
  byId("fact-encoder").textContent = collection?.encoder_name ?? model?.id ?? "none";
  byId("fact-generation").textContent = collection?.generation ?? "none";
  byId("facts").hidden = false;
}

// One request of several broad texts lets the first view show this very collection, with examples in the
// words of its own captions; the fixed ones stand in where there are none.
const probes = ["a person", "an animal", "a place outdoors", "water", "something red", "something blue"];
const standIns = ["a dog on a beach", "two people riding bicycles", "a red circle", "a street at night"];

const welcome = () => run(async (signal) => {
  const reply = await askText(probes, 4, signal).catch(({ message }) => ({ results: [], problem: message }));
  const mixed = [0, 1, 2, 3].flatMap((rank) => reply.results.flatMap((list) => list[rank] ?? []));
  const few = [...new Map(mixed.map((result) => [result.id, result])).values()].slice(0, 14);
  const captions = few.flatMap(({ caption }) => caption || []).sort((a, b) => a.length - b.length);
  const examples = (captions.length ? captions.slice(0, 4) : standIns).map((text) => (
    h("li", {}, h("button", { className: "button", onclick: () => go({ q: text }) }, text))));
  const tiles = few.map((result, rank) => entry("grid", result, rank, false));
  return () => {
    show(tiles.length ? "From this collection" : "", "grid", tiles);
    byId("examples").replaceChildren(...examples);
    byId("intro").hidden = false;
    say(reply.problem ?? "", "problem" in reply);
  };
});

// --- what the reader does --------------------------------------------------------------------------------
function listen() {
  const on = (id, type, act) => byId(id).addEventListener(type, act);
  const submit = (id, act) => on(id, "submit", (event) => (event.preventDefault(), act()));
  submit("naming", compareLabels);
  submit("ask", () => go({ q: byId("text").value.trim() }));
  on("k", "change", () => again());
  on("file", "change", (event) => takePicture(event.target.files[0]));
  on("find-similar", "click", () => findClosest("/v1/image-to-image", "picture"));
  on("find-captions", "click", () => findClosest("/v1/image-to-text", "caption"));
  on("put-away", "click", () => (leaveAddress(), follow()));
  const dialog = byId("item");
  on("item-close", "click", () => dialog.close());
  on("item-similar", "click", () => (dialog.close(), scrollTo(0, 0), go({ like: dialog.dataset.id })));
  // A click whose target is the dialog itself, and nothing in it, fell on the backdrop around it.
  on("item", "click", (event) => event.target === dialog && dialog.close());
  window.addEventListener("popstate", follow);
  document.addEventListener("paste", (event) => takePicture(event.clipboardData.files[0]));
  for (const type of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(type, (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault(); // without it the browser would leave the page to show the file
      if (type !== "dragleave" || event.relatedTarget === null) byId("veil").hidden = type !== "dragover";
      if (type === "drop") takePicture(event.dataTransfer.files[0]);
    });
  }
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea, dialog[open]");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    byId("text").select();
  });
}

listen();
follow();
describeService().catch((error) => say(error.message, true));
