"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
document.getElementById("dump").textContent = JSON.stringify(data.groups, null, 1);
