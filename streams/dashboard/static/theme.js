// Colours: as the system says, light, or dark. Only this choice is kept in the browser.

const KEY = "headrace-colours";
const ORDER = ["auto", "light", "dark"];
const SAID = { auto: "as the system says", light: "light", dark: "dark" };

export function themeButton(button) {
  let chosen = "auto";
  try {
    chosen = ORDER.includes(localStorage.getItem(KEY)) ? localStorage.getItem(KEY) : "auto";
  } catch {
    // Storage is refused: the choice lasts as long as the page.
  }
  const show = () => {
    if (chosen === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = chosen;
    button.textContent = chosen[0].toUpperCase() + chosen.slice(1);
    button.setAttribute("aria-label", `Colours: ${SAID[chosen]}; press to change`);
  };
  button.addEventListener("click", () => {
    chosen = ORDER[(ORDER.indexOf(chosen) + 1) % ORDER.length];
    try {
      localStorage.setItem(KEY, chosen);
    } catch {
      // As above.
    }
    show();
  });
  show();
}
