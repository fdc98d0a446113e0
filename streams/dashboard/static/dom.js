// Making and changing elements. Text always goes in as text, never as markup.

/** Make an element with attributes and children; `null` children are left out. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** Make an SVG element with attributes. */
export function draw(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** Set a text where it has changed, so that nothing is laid out for nothing. */
export function say(element, text) {
  if (element.firstChild?.nodeType === Node.TEXT_NODE && element.childNodes.length === 1) {
    if (element.firstChild.data !== text) element.firstChild.data = text;
  } else element.textContent = text;
}

/** Set an attribute where it has changed. */
export function set(element, name, value) {
  if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** Replace the rows of a table by arrays of cells; a cell is a text, an element, or {text, class, header}. Rows are reused. */
export function fill(body, rows) {
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((cells, number) => {
    const row = body.rows[number] ?? body.insertRow();
    while (row.cells.length > cells.length) row.deleteCell(-1);
    cells.forEach((cell, place) => {
      const told = typeof cell === "object" && !(cell instanceof Node) ? cell : { text: cell };
      let slot = row.cells[place];
      if (!slot || (slot.tagName === "TH") !== Boolean(told.header)) {
        const fresh = make(told.header ? "th" : "td", told.header ? { scope: "row" } : {});
        if (slot) slot.replaceWith(fresh);
        else row.append(fresh);
        slot = fresh;
      }
      set(slot, "class", told.class ?? "");
      if (told.text instanceof Node) {
        if (slot.firstChild !== told.text || slot.childNodes.length > 1) slot.replaceChildren(told.text);
      } else say(slot, told.text);
    });
  });
}

/** Put a table into a `details` when it is opened, and again while it stays open; `rows` gives {heads, rows}. */
export function tableIn(details, rows) {
  const show = () => {
    if (!details.open) return;
    const { heads, rows: lines } = rows();
    let table = details.querySelector("table");
    if (!table) {
      const head = make("tr", {}, ...heads.map((name, place) => make("th", { scope: "col", class: place ? "n" : "" }, name)));
      table = make("table", { class: "plain" }, make("thead", {}, head), make("tbody"));
      details.querySelector("div").append(make("div", { class: "scroll" }, table));
    }
    fill(table.tBodies[0], lines.map((line) => line.map((text, place) => (place ? { text, class: "n" } : { text, header: true }))));
  };
  details.addEventListener("toggle", show);
  return show;
}
