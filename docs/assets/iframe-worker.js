// The search runs in a worker, which browsers refuse to pages that are opened from a disk. There, a frame does the same.
// The name is the one that the theme looks for, so that it does not load a script from another server in its place.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.appendChild(frame);
      const inside = frame.contentWindow;
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      const script = inside.document.createElement("script");
      this.ready = new Promise((resolve) => {
        script.onload = () => resolve(inside);
      });
      script.src = address;
      inside.document.body.appendChild(script);
    }

    postMessage(data) {
      this.ready.then((inside) => inside.dispatchEvent(new inside.MessageEvent("message", { data })));
    }
  };
}
