// Plays the sounds of a page, one at a time, all at one place: what goes on is heard from where the other one was.
// A sound is fetched whole before it can be played, so that no network is heard.
const say = (text, wrong = false) => {
  const status = document.querySelector("#status");
  status.textContent = text;
  status.classList.toggle("wrong", wrong);
};
const clock = seconds => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

class Deck {
  // buttons: those of class "play", each with data-sound, its address, and data-name; place: the slider, if there is one
  constructor(buttons, place, time) {
    this.now = null;
    this.place = place;
    this.time = time;
    this.onheard = () => {};
    this.sounds = buttons.map(button => ({button, name: button.dataset.name, audio: null, heard: 0, from: 0}));
    this.ready = Promise.all(this.sounds.map(sound => this.load(sound)));
    for (const sound of this.sounds) sound.button.addEventListener("click", () => this.toggle(sound));
    if (place) place.addEventListener("input", () => this.seek(Number(place.value)));
  }
  async load(sound) {
    sound.button.disabled = true;
    try {
      const answer = await fetch(sound.button.dataset.sound);
      if (!answer.ok) throw new Error(String(answer.status));
      const audio = new Audio(URL.createObjectURL(await answer.blob()));
      await new Promise((done, failed) => { audio.oncanplaythrough = done; audio.onerror = failed; audio.load(); });
      audio.oncanplaythrough = audio.onerror = null;
      sound.audio = audio;
      audio.addEventListener("timeupdate", () => this.moved(sound));
      audio.addEventListener("ended", () => { this.moved(sound); this.stop(); this.seek(0); });
      this.label(sound);
    } catch {
      sound.button.textContent = "Load again";
      say(`${sound.name} could not be loaded. Press “Load again”.`, true);
    }
    sound.button.disabled = false;
  }
  label(sound) {
    const plays = sound === this.now;
    sound.button.textContent = plays ? "Pause" : "Play";
    sound.button.setAttribute("aria-label", `${plays ? "Pause" : "Play"} ${sound.name}`);
  }
  async toggle(sound) {
    if (!sound.audio) return this.load(sound);
    if (sound === this.now) return this.stop();
    const at = this.now ? this.now.audio.currentTime : this.at || 0;
    this.stop();
    sound.audio.currentTime = sound.from = at;
    this.now = sound;
    this.label(sound);
    try { await sound.audio.play(); } catch { if (this.now === sound) { this.stop(); say("This browser did not play the sound.", true); } }
  }
  stop() {
    const sound = this.now;
    if (!sound) return;
    this.now = null;
    sound.audio.pause();
    this.at = sound.audio.currentTime;
    this.label(sound);
  }
  seek(seconds) {
    this.at = seconds;
    if (this.now) this.now.audio.currentTime = this.now.from = seconds;
    this.show(seconds);
  }
  // only what really ran counts as heard: a jump of the slider does not
  moved(sound) {
    const at = sound.audio.currentTime, step = at - sound.from;
    if (step > 0 && step < 1.5) sound.heard += step;
    sound.from = at;
    if (sound === this.now) { this.at = at; this.show(at); }
    this.onheard(sound);
  }
  show(seconds) {
    if (!this.place) return;
    this.place.value = seconds;
    this.place.setAttribute("aria-valuetext", `${Math.floor(seconds)} of ${Math.round(this.place.max)} seconds`);
    this.time.textContent = `${clock(seconds)} / ${clock(Math.round(this.place.max))}`;
  }
}
