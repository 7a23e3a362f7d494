const data = JSON.parse(document.getElementById("data").textContent);

function card(one) {
  const heading = make("h3", {}, [`${one.recording}, frame ${one.frame}, ${one.time_s} s`]);
  const said = make("p", {}, [`found by A only: ${one.only_here}; by B only: ${one.only_other}; ` +
    `wrong: ${one.wrong_here} of A, ${one.wrong_other} of B`]);
  const { a, b } = one.pictures, any = a ?? b;
  const sides = [["Truth, as found by " + (a ? "A" : "B"), any, any.truth]];
  if (a) sides.push(["A", a, a.predicted]);
  if (b) sides.push(["B", b, b.predicted]);
  return make("section", { class: "difference" }, [heading, said, sideBySide(sides)]);
}

const frames = document.getElementById("frames"); // none if both runs found the same
if (frames) frames.append(...data.frames.map(card));
if (frames && !data.frames.length) frames.append("Neither run has kept a picture of such a frame.");
switchOutlines();
