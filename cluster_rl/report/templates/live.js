// Asks the server for what is new, and puts it in part by part: what was chosen, opened or scrolled to stays as it is.
const LOOK_MS = 2000;
const at = (id) => document.getElementById(id), video = at("film-video");
const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
const delivered = new Map(all("section[id], #made").map((part) => [part.id, part.innerHTML]));
const CONTROLS = "select, input", SCROLLED = ".low, .wide", FOCUSED = "a, button, input, select, summary, [tabindex]";
let page = Number(document.body.dataset.page), held = false, film = 0, newer = null;

// A way is found again by its episode, all else by its place.
const label = (one, place) => one.type === "checkbox" ? one.closest("label").textContent.split(":")[0] : String(place);

function chosen(part) {
  const controls = all(CONTROLS, part), labels = controls.map(label);
  return {
    values: new Map(controls.map((one, place) => [labels[place], one.type === "checkbox" ? one.checked : one.value])),
    folds: all("details", part).map((fold) => fold.open),
    scrolled: all(SCROLLED, part).map((one) => [one.scrollLeft, one.scrollTop]),
    sorted: all("table.sortable", part).map((table) => {
      const head = all("th[aria-sort]", table)[0];
      return head && [head.cellIndex, head.getAttribute("aria-sort")];
    }),
    focused: all(FOCUSED, part).indexOf(document.activeElement),
  };
}

function choose(part, was) {
  const controls = all(CONTROLS, part), labels = controls.map(label);
  all("details", part).forEach((fold, place) => { fold.open = was.folds[place] ?? fold.open; });
  all("table.sortable", part).forEach((table, place) => {
    const [column, direction] = was.sorted[place] ?? [];
    const button = column === undefined ? null : table.tHead.rows[0].cells[column].firstElementChild;
    if (button) sort(button);
    if (button && direction === "descending") sort(button);
  });
  controls.forEach((one, place) => {
    const value = was.values.get(labels[place]);
    if (value === undefined) return;
    if (one.type === "checkbox") one.checked = value;
    else one.value = value;
    if (one.matches("select") && one.selectedIndex < 0) one.selectedIndex = 0; // what it had is none any more
    one.dispatchEvent(new Event(one.matches(".slice") ? "input" : "change", { bubbles: true }));
  });
  all(SCROLLED, part).forEach((one, place) => one.scrollTo(...(was.scrolled[place] ?? [0, 0])));
  if (was.focused >= 0) all(FOCUSED, part)[was.focused]?.focus({ preventScroll: true });
}

// True while somebody drags in it or has marked words in it: it comes later.
const inUse = (part) => held || (!getSelection().isCollapsed && part.contains(getSelection().anchorNode));

// Puts in what has changed; says whether that was all.
function patch(fresh) {
  const seen = all("section[id]").find((part) => part.getBoundingClientRect().bottom > 0);
  const top = seen?.getBoundingClientRect().top;
  let whole = true;
  for (const part of all("section[id], #made", fresh)) {
    const here = at(part.id);
    if (part.id === "film" || delivered.get(part.id) === part.innerHTML) continue;
    if (inUse(here)) {
      whole = false;
      continue;
    }
    delivered.set(part.id, part.innerHTML);
    const was = chosen(here);
    here.replaceChildren(...part.childNodes);
    choose(here, was);
  }
  if (seen) scrollBy({ top: seen.getBoundingClientRect().top - top, behavior: "instant" });
  return whole;
}

function show(next) {
  [film, newer] = [next.number, null];
  at("film-newer").hidden = true;
  at("film-words").textContent = next.words;
  at("film-picture").hidden = next.picture === "";
  at("film-picture").href = next.picture;
  video.hidden = false;
  video.src = next.video;
  play();
}

// A browser may refuse to play by itself; the button is there.
const play = () => { if (!calm) video.play().catch((error) => tell([`the video waits: ${error.message}`], false)); };

function offer(next) {
  if (next === null || next.number === film) return;
  if (film === 0 || video.error || (video.ended && !newer)) return show(next);
  newer = next;
  at("film-newer").hidden = false;
}

video.addEventListener("ended", () => newer ? show(newer) : play()); // from its beginning
video.addEventListener("error", () => { if (newer) show(newer); });
at("film-newer").addEventListener("click", () => { if (newer) show(newer); });

function tell(notes, bad) {
  const words = notes.join("; ");
  if (at("told").textContent !== words) at("told").textContent = words;
  at("told").classList.toggle("bad", bad);
}

async function read(name) {
  const answer = await fetch(name, { cache: "no-store" });
  if (!answer.ok) throw new Error((await answer.text()).trim());
  return answer;
}

async function look() {
  try {
    const state = await (await read("state")).json();
    if (state.page !== page) {
      const fresh = new DOMParser().parseFromString(await (await read("./")).text(), "text/html");
      if (patch(fresh)) page = Number(fresh.body.dataset.page);
    }
    offer(state.film);
    tell(state.notes, false);
  } catch (error) {
    tell([`No answer (${error.message}): this page stays as it is until watch, and the way to it, are there again.`], true);
  }
}

// Nobody looks at a page that is hidden, and nothing is drawn for nobody.
async function followRun() {
  if (!document.hidden) await look();
  setTimeout(followRun, LOOK_MS);
}

document.documentElement.style.overflowAnchor = "none"; // the place is kept here
for (const [event, down] of [["pointerdown", true], ["pointerup", false], ["pointercancel", false]]) {
  addEventListener(event, () => { held = down; }, true);
}
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
followRun();
