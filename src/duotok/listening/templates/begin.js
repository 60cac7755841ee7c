// The noise by which listeners set their volume.
new Deck([...document.querySelectorAll("button.play")], null, null);
