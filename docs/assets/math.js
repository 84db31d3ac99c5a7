// Formulae: arithmatex leaves \(...\) and \[...\]; notebooks keep their dollars.
const brackets = [
  { left: "\\[", right: "\\]", display: true },
  { left: "\\(", right: "\\)", display: false },
];
const dollars = [
  { left: "$$", right: "$$", display: true },
  { left: "$", right: "$", display: false },
];
document.addEventListener("DOMContentLoaded", () => {
  for (const part of document.querySelectorAll(".arithmatex")) {
    renderMathInElement(part, { delimiters: brackets });
  }
  for (const cell of document.querySelectorAll(".jp-RenderedMarkdown")) {
    renderMathInElement(cell, { delimiters: [...dollars, ...brackets] });
  }
});
