// Players of one group go on where the last one stopped; only one plays at a time.
const sounds = [...document.querySelectorAll("audio")];
for (const sound of sounds) {
  sound.addEventListener("play", () => {
    const group = sound.closest("[data-group]");
    for (const other of sounds) {
      if (other === sound || other.paused) continue;
      if (other.closest("[data-group]") === group) sound.currentTime = other.currentTime;
      other.pause();
    }
  });
}
// Paper shows everything: what is folded is opened before printing.
addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("details")) part.open = true; });
