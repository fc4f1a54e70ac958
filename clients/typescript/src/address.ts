/**
 * Returns the URL of a store at an address as users write it.
 *
 * @param address - `host:port`, `grpc://host:port`, `http://host:port`, or `grpcs://` and `https://` for TLS.
 * @throws TypeError - It is none of these.
 */
export function parseAddress(address: string): URL {
  let url: URL;
  try {
    url = new URL((address.includes("://") ? address : `grpc://${address}`).replace(/^grpc(s?):/, "http$1:"));
  } catch (error) {
    throw fault(address, "it must name a host and a port", error);
  }
  if (url.protocol !== "http:" && url.protocol !== "https:") {
    throw fault(address, `${url.protocol}// is not served`);
  }
  // The URL parser drops a port that is the scheme's default, so this looks at the text.
  if (!/:\d+\/?$/.test(address)) {
    throw fault(address, "it must name a host and a port");
  }
  if (url.pathname !== "/" || url.search !== "" || url.username !== "") {
    throw fault(address, "nothing may follow the port");
  }
  return url;
}

function fault(address: string, what: string, cause?: unknown): TypeError {
  const forms = "host:port, grpc://host:port or http://host:port, or grpcs:// or https:// for TLS";
  return new TypeError(`Cannot connect to "${address}": ${what}; write ${forms}.`, { cause });
}
