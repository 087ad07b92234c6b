// The theme switch. Runs in the head, before anything is drawn, so that a chosen theme does not flash.

const KEY = "funnybone-theme";

type Theme = "light" | "dark";

// Storage may be refused to a page that was opened from disk; the switch then lasts until the page is closed.
function remembered(): Theme | null {
  try {
    const value = localStorage.getItem(KEY);
    return value === "light" || value === "dark" ? value : null;
  } catch {
    return null;
  }
}

function remember(theme: Theme): void {
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // Nothing is lost but the memory of it.
  }
}

const preferred = matchMedia("(prefers-color-scheme: dark)");
let chosen = remembered();

function apply(): void {
  const theme: Theme = chosen ?? (preferred.matches ? "dark" : "light");
  document.documentElement.dataset.theme = theme;
  const button = document.querySelector<HTMLButtonElement>("[data-theme-switch]");
  if (button) button.setAttribute("aria-pressed", String(theme === "dark"));
  document.dispatchEvent(new CustomEvent("themechange"));
}

apply();
preferred.addEventListener("change", apply);
document.addEventListener("DOMContentLoaded", () => {
  apply();
  document.querySelector("[data-theme-switch]")?.addEventListener("click", () => {
    chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    remember(chosen);
    apply();
  });
});
