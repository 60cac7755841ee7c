// Says of tables that are wider than the page that there is more to see: on phones no scroll bar does.
for (const wide of document.querySelectorAll(".wide")) {
  const mark = () => wide.classList.toggle("more", wide.scrollWidth > wide.clientWidth + 1);
  mark();
  addEventListener("resize", mark);
}
