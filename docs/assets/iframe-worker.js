// Search from a page that lies on the disk. The theme searches in a Worker, and browsers start none for file: pages; this one
// runs the same script in a hidden frame. The theme looks for the name IFrameWorker in the frame's parent, so it is called that.
class IFrameWorker extends EventTarget {
  constructor(url) {
    super();
    this.frame = document.createElement("iframe");
    this.frame.hidden = true;
    document.body.append(this.frame);
    const inside = this.frame.contentWindow;
    inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
    inside.importScripts = (...urls) => Promise.all(urls.map((each) => this.load(each)));
    this.ready = this.load(new URL(url, document.baseURI).href);
  }

  load(url) {
    const inside = this.frame.contentDocument;
    return new Promise((resolve, reject) => {
      const script = inside.createElement("script");
      Object.assign(script, { src: url, onload: resolve, onerror: reject });
      inside.body.append(script);
    });
  }

  postMessage(data) {
    const { contentWindow } = this.frame;
    this.ready.then(() => contentWindow.dispatchEvent(new contentWindow.MessageEvent("message", { data })));
  }

  terminate() {
    this.frame.remove();
  }
}

if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = IFrameWorker;
}
