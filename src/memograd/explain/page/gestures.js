// Moving the picture: what the pointer, two fingers and the wheel do.

// Drag with a mouse or one finger, two fingers or the wheel to zoom.
export function movable(root, picture) {
  const fingers = new Map();
  const place = (event) => {
    const box = root.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };
  let start = null;
  root.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, place(event));
    start = place(event);
    picture().moved = false;
  });
  root.addEventListener("pointermove", (event) => {
    if (!fingers.has(event.pointerId)) return;
    const before = fingers.get(event.pointerId), now = place(event), shown = picture();
    if (!shown.moved && Math.hypot(now.x - start.x, now.y - start.y) < 5) return;
    if (!shown.moved) root.setPointerCapture(event.pointerId);
    shown.moved = true;
    if (fingers.size === 2) {
      const [other] = [...fingers].filter(([id]) => id !== event.pointerId).map(([, p]) => p);
      const factor = Math.hypot(now.x - other.x, now.y - other.y) / (Math.hypot(before.x - other.x, before.y - other.y) || 1);
      shown.zoom(factor, (now.x + other.x) / 2, (now.y + other.y) / 2);
    } else {
      shown.camera.x += now.x - before.x;
      shown.camera.y += now.y - before.y;
      shown.look();
    }
    fingers.set(event.pointerId, now);
  });
  for (const name of ["pointerup", "pointercancel", "pointerleave"]) {
    root.addEventListener(name, (event) => fingers.delete(event.pointerId));
  }
  root.addEventListener("wheel", (event) => {
    event.preventDefault();
    const { x, y } = place(event);
    picture().zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), x, y);
  }, { passive: false });
}
