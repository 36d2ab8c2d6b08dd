// Say what is wrong with objects of a cluster: a JSON array of manifests on stdin, on stdout an array with the problems of each.
//
// npm's kubernetes-models carry a compiled validator for each kind: of Kubernetes itself, from its OpenAPI, and of custom resources,
// from the CRDs that their projects publish. It checks types, required keys, enums and patterns, and passes over unknown keys, as
// the API server does. We want those found, so the validator is shown the manifest through proxies that note which keys it asks
// for. It asks for every key that its schema knows, whether it is there or not, and goes through all keys of a map; so a key that
// is there and was not asked for is unknown. An object of which it asks for nothing at all may hold anything, in the schema too
// (`x-kubernetes-preserve-unknown-fields`).
//
// One name is lost when the validators of custom resources are made, `description`: as a key with a text it is passed over.
//
//     node check.mjs NODE_MODULES             check
//     node check.mjs NODE_MODULES --version   what is installed; fails where that is not what the lock file beside this one says

import {existsSync, readFileSync} from "node:fs";
import {join, resolve} from "node:path";
import {pathToFileURL} from "node:url";

const customs = {
    "argoproj.io": "argo-cd",
    "kustomize.toolkit.fluxcd.io": "flux-cd",
    "source.toolkit.fluxcd.io": "flux-cd",
    "monitoring.coreos.com": "prometheus-operator",
};

const modules = resolve(process.argv[2]);
const json = (path) => JSON.parse(readFileSync(path, "utf8"));

function version() {
    for (const [path, {version}] of Object.entries(json(new URL("package-lock.json", import.meta.url)).packages)) {
        if (path === "") continue;
        const installed = json(join(modules, "..", path, "package.json")).version;
        if (installed !== version) throw new Error(`${path} is ${installed}, wanted ${version}`);
        if (path.lastIndexOf("node_modules/") === 0 && path.includes("kubernetes-models")) console.log(path.slice(13), installed);
    }
}

// `monitoring.coreos.com/v1`, `PodMonitor` is in MonitoringCoreosComV1PodMonitor, `networking.k8s.io/v1`, `NetworkPolicy` in
// IoK8sApiNetworkingV1NetworkPolicy, `v1`, `Pod` in IoK8sApiCoreV1Pod.
function schema(apiVersion, kind) {
    const [version, group = "core"] = String(apiVersion).split("/").reverse();
    const words = group.split(".");
    if (Object.hasOwn(customs, group)) return [`@kubernetes-models/${customs[group]}`, camel(...words, version, kind)];
    if (words.length === 1 || group.endsWith(".k8s.io")) {
        return ["kubernetes-models", camel("io", "k8s", "api", words[0], version, kind)];
    }
    return undefined;
}

const camel = (...words) => words.map(String).map((word) => word.charAt(0).toUpperCase() + word.slice(1)).join("");

async function validator(apiVersion, kind) {
    const [folder, name] = schema(apiVersion, kind) ?? [];
    const files = [".mjs", ".js"].map((end) => join(modules, folder ?? "", "_schemas", name + end)).filter(existsSync);
    return files.length === 0 ? undefined : (await import(pathToFileURL(files[0]).href)).validate;
}

// Show `value` to a validator, and let `unknown()` tell afterwards which of its keys, at any depth, were never asked for.
function watched(value) {
    const seen = new Map();
    const show = (part) => {
        if (part === null || typeof part !== "object") return part;
        if (!seen.has(part)) {
            const asked = new Set();
            const get = (target, key) => {
                if (typeof key === "string") asked.add(key);
                return show(Reflect.get(target, key));
            };
            seen.set(part, {asked, shown: new Proxy(part, {get})});
        }
        return seen.get(part).shown;
    };
    function* unknown(part, path) {
        if (part === null || typeof part !== "object" || !seen.has(part)) return;
        const {asked} = seen.get(part);
        for (const [key, inner] of Object.entries(part)) {
            if (asked.has(key)) yield* unknown(inner, [...path, key]);
            else if (key === "description" && typeof inner === "string") continue;
            else if (asked.size > 0 && !Array.isArray(part)) yield `${path.concat(key).join(".")}: unknown key`;
        }
    }
    return {shown: show(value), unknown: () => unknown(value, [])};
}

function told({instancePath, keyword, params}) {
    const path = instancePath.slice(1).split("/").map((key) => key.replaceAll("~1", "/").replaceAll("~0", "~")).join(".");
    return `${path || "the manifest"}: ${keyword}: ${Object.values(params).flat().join(", ")}`;
}

async function problems(manifest) {
    const validate = await validator(manifest.apiVersion, manifest.kind);
    if (validate === undefined) return [`the manifest: no schema is known for ${manifest.apiVersion} ${manifest.kind}`];
    const {shown, unknown} = watched(manifest);
    const valid = validate(shown);
    return [...(valid ? [] : validate.errors.map(told)), ...unknown()];
}

if (process.argv[3] === "--version") {
    version();
} else {
    const found = [];
    for (const manifest of JSON.parse(readFileSync(0, "utf8"))) found.push(await problems(manifest));
    console.log(JSON.stringify(found));
}
