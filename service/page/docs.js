// Swagger UI; `validatorUrl` would ask a server elsewhere what it thinks of the document.
SwaggerUIBundle({
  url: "openapi.json",
  domNode: document.getElementById("swagger-ui"),
  deepLinking: true,
  validatorUrl: null,
});
