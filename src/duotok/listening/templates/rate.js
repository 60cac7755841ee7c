// A page of ratings: nothing can be rated before it was played, nothing is lost when the server does not answer.
const form = document.querySelector("#rating");
const {to, next, must, method} = form.dataset;
const least = Number(must);
const deck = new Deck([...form.querySelectorAll("button.play")], form.querySelector(".place"), form.querySelector(".time"));
const fields = new Map([...form.querySelectorAll("[data-of]")].map(field => [field.dataset.of, field]));
const kept = new Map();    // place -> score that the server has
const wanted = new Map();  // place -> score that it has not confirmed
const heard = place => deck.sounds.find(sound => sound.button.dataset.place === place).heard;
const number = new Intl.NumberFormat("en", {maximumFractionDigits: 1}).format(least);

for (const [place, field] of fields) if (field.dataset.score !== "") kept.set(place, Number(field.dataset.score));

deck.onheard = sound => {
  const field = fields.get(sound.button.dataset.place);
  if (field && field.disabled && sound.heard >= least - .02) {
    field.disabled = false;
    say(method === "mos" ? "You can rate the clip now." : `You can rate ${sound.name} now.`);
  }
};
deck.ready.then(() => { if (document.activeElement === document.body) deck.sounds[0].button.focus({preventScroll: true}); });

// One after the other: of two on their way the older one could arrive last, and stay.
let turn = Promise.resolve(true);
const save = () => turn = turn.then(send);
async function send() {
  if (!wanted.size) return true;
  const sent = new Map(wanted);
  const body = {scores: Object.fromEntries(sent), heard: {}};
  for (const place of sent.keys()) body.heard[place] = Math.max(heard(place), least);
  try {
    const answer = await fetch(to, {method: "PUT", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)});
    const told = await answer.json();
    if (!answer.ok) { say(`Not saved: ${told.error}.`, true); return false; }
  } catch {
    say("Not saved: the server does not answer. Your rating is still here; try again in a moment.", true);
    return false;
  }
  for (const [place, score] of sent) {
    kept.set(place, score);
    if (wanted.get(place) === score) wanted.delete(place);
  }
  return true;
}

// Back: what still waits goes first.
for (const link of form.querySelectorAll("a")) link.addEventListener("click", async event => {
  if (!wanted.size) return;
  event.preventDefault();
  if (await save()) location.assign(link.href);
});

let leaving = false;
// some browsers bring a page back as it was left
addEventListener("pageshow", () => { leaving = false; });
form.addEventListener("submit", async event => {
  event.preventDefault();
  if (leaving) return;
  if (method === "mos") {
    const chosen = form.querySelector("input[name=score]:checked");
    if (chosen && kept.get("1") !== Number(chosen.value)) wanted.set("1", Number(chosen.value));
  }
  const open = [...fields].filter(([place]) => !kept.has(place) && !wanted.has(place));
  if (open.length) {
    const [, field] = open[0], what = method === "mos" ? "the clip" : field.dataset.name;
    say(field.disabled ? `Play ${what} first, at least ${number} seconds of it.` : `Rate ${what} first.`, true);
    (field.disabled ? form.querySelector(`button[data-place="${field.dataset.of}"]`) : field.querySelector("input") || field).focus();
    return;
  }
  // what the server has is sent again: it changes nothing there, and tells whether the next page will come
  for (const [place, score] of kept) if (!wanted.has(place)) wanted.set(place, score);
  leaving = true;
  deck.stop();
  if (await save()) location.assign(next);
  else leaving = false;
});

if (method === "mushra") {
  const words = JSON.parse(form.dataset.words);
  const show = (field, score) => {
    field.setAttribute("aria-valuetext", score === undefined ? "not rated" : `${score}, ${words[score]}`);
    form.querySelector(`output[for="${field.id}"]`).textContent = score === undefined ? "not rated yet" : `${score}, ${words[score]}`;
  };
  for (const [place, field] of fields) {
    show(field, kept.get(place));
    field.addEventListener("input", () => show(field, Number(field.value)));
    // also where the handle was only touched: then its place is the score
    const take = async () => {
      const score = Number(field.value);
      show(field, score);
      if ((wanted.has(place) ? wanted : kept).get(place) === score) return;
      wanted.set(place, score);
      if (await save() && kept.get(place) === score) say(`${field.getAttribute("aria-label")}: ${score}, saved.`);
    };
    field.addEventListener("change", take);
    field.addEventListener("pointerup", () => { if (!field.disabled) take(); });
  }
}
