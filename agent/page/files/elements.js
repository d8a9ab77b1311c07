// Small helpers for the page's elements. Text is only ever set as text: what servers say is never markup.

export const $ = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function say(text) {
  $("said").textContent = text;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { $("said").textContent = ""; }, 8000);
}

export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// A canvas in device pixels, and its size in CSS pixels.
export function drawing(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

// A dialog with a form; resolves with what `read` returns, or null when it is closed.
export function ask(title, content, { send = "OK", read = () => true, more = [] } = {}) {
  const dialog = $("dialog");
  return new Promise((done) => {
    const finish = (value) => { dialog.close(); done(value); };
    const form = element("form", { onsubmit: (event) => { event.preventDefault(); finish(read(form)); } },
      element("h2", { textContent: title }), ...content,
      element("div", { className: "row" },
        element("button", { className: "main", textContent: send }),
        ...more.map(([text, value]) => element("button", { type: "button", textContent: text, onclick: () => finish(value) })),
        element("button", { type: "button", textContent: "Close", onclick: () => finish(null) })));
    dialog.replaceChildren(form);
    dialog.oncancel = () => done(null);
    dialog.showModal();
  });
}
